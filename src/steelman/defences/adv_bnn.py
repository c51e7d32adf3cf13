"""Adversarial training of a Bayesian network."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from steelman.attacks.bounded.pgd import PGD
from steelman.data.dataset import Dataset
from steelman.defences.adversarial_training import AdversarialTraining
from steelman.defences.objective import Objective
from steelman.defences.weight_penalty import WeightPenalty
from steelman.networks.bayesian_layers import divergence
from steelman.ranges import Factor
from steelman.types import Share


@dataclass(frozen=True)
class AdvBNN(WeightPenalty):
    """Adv-BNN: the cross-entropy of attacked images, and the divergence of the weights from their prior.

    L + (alpha / N) sum KL(N(mu, e^2s) || N(0, sigma_0^2)), over the weights of all `Bayesian` layers, where N is the
    number of training images; of a weight it is log sigma_0 - s + (e^2s + mu^2) / (2 sigma_0^2) - 1/2.

    objective  L, default AdversarialTraining on PGD of 10 steps of .007 at 8/255, without a random start (code), each
               step on a new draw of the weights, as crafting="train" has it for a network in `MeanOfDraws`. Plain() is
               a Bayesian network without adversarial training
    alpha      default .02 (README; the code's own default is 1, the bound on the evidence)

    Make the layers by `bayesian`, in a recipe `network.bayesian = { }`, and predict by several draws, `network.draws`.
    It trains by Adam at .01 (code). A draw is torch's, and no image's: with other batches, or in two processes, other
    weights are drawn.

    It is broken by `EOT` of `PGD`, whose gradient is the mean over draws.

    Cost: the objective's; no pass.
    Reference: Xuanqing Liu, Yao Li, Chongruo Wu and Cho-Jui Hsieh, "Adv-BNN: improved adversarial defense through
    robust Bayesian neural network", ICLR 2019.

    Raises:
        ValueError: a network without Bayesian layers.
    """

    objective: Objective = AdversarialTraining(
        PGD(eps=Share(8 / 255), steps=10, step_size=0.007, random_start=False), crafting="train"
    )
    alpha: Factor = 0.02
    images: int = field(default=1, init=False, repr=False, compare=False)
    """N, of the data that are trained on."""

    def setup(self, model: nn.Module, data: Dataset) -> "AdvBNN":
        made = super().setup(model, data)
        object.__setattr__(made, "images", len(data))
        return made

    def penalty(self, model: nn.Module) -> Tensor:
        return self.alpha / self.images * divergence(model)

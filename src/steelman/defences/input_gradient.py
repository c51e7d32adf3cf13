"""A penalty on the gradient of the loss."""

from dataclasses import dataclass

from torch import Tensor

from steelman.defences.gradient_penalty import GradientPenalty, slope, squared
from steelman.ranges import Factor
from steelman.types import Batch, Images, Logits, PerImage


@dataclass(frozen=True)
class InputGradientRegularisation(GradientPenalty):
    """Input gradient regularisation, also "double back-propagation": cross-entropy, and its squared gradient.

    (1/B) sum_i [CE_i + weight |grad_x CE_i|_2^2].

    weight  lambda, default 110 (authors' code, MNIST: 10^4.75, see below)

    Paper and code differ: the paper, as we do, takes the gradient of each image's loss. The code takes half the squared
    gradient of the batch's mean loss, so that its weight is ours times twice the batch size: of its 10^2 to 10^5 at
    batches of 256, .2 to 195 here, it picks by validation 56,234 for MNIST.
    Derivatives are as in `JacobianRegularisation`.

    Cost: 1 forward and 1 gradient pass with a graph, and the double back-propagation through them.
    Reference: Andrew Slavin Ross and Finale Doshi-Velez, "Improving the adversarial robustness and interpretability of
    deep neural networks by regularizing their input gradients", AAAI 2018, section "Gradient regularization".

    Raises:
        ValueError: a compiled network, which cannot be differentiated twice; one class.
    """

    weight: Factor = 110.0

    def penalty(self, x: Images, logits: Logits, losses: PerImage, batch: Batch) -> Tensor:
        return squared(slope(losses, x)).mean()

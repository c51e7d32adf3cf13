"""Virtual adversarial training: a smooth prediction around every image."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn

from steelman.attacks.bounded.vat import VirtualAdversarial
from steelman.attacks.core import Oracle
from steelman.data.dataset import Dataset
from steelman.defences.dropout import shared_dropout
from steelman.defences.objective import Objective
from steelman.forward import logits_of
from steelman.losses import Goal, cross_entropy, kl_divergence
from steelman.networks.surgery import batchnorm_layers, borrowed_buffers, no_recomputation, rehearsal
from steelman.randomness import Draws
from steelman.ranges import Count, Factor, Positive
from steelman.types import Batch, Images, Logits

_DIRECTION = 303
"""Purpose for `Draws.split`."""


@dataclass(frozen=True)
class VAT(Objective):
    """Virtual adversarial training: cross-entropy, and the divergence to the prediction in the worst direction.

    CE(x, y) + weight * KL(p(x) || p(x + r)), where r has length eps and the direction of `VirtualAdversarial`. p(x) and
    r are constants of the derivative, so gradients flow through p(x + r) alone.

    eps         L2 length of r in the units of the images, default 2.1 (authors' code, MNIST with all labels; 8 on
                CIFAR-10)
    weight      lambda, default 1 (paper)
    iterations  power iterations, default 1 (paper)
    xi          L2 length of their finite difference, default .1 (code: 1e-6; `VirtualAdversarial` gives the reason)
    clip        keep x + r in the box [0, 1]; default False (paper)

    As in the authors' code (not in the paper), all passes are in the network's present mode and share one dropout mask
    for each image, and only the pass on x moves running statistics. "Efficient defenses against adversarial attacks"
    calls another method VAT: training on clipped images of `VirtualAdversarial(eps=2.1, iterations=5)`, with their
    labels, that were crafted once on the undefended network; that is the preparation `Crafted`. The paper also takes
    the penalty of images without labels; here every image has one.

    Cost: 1 + iterations + 1 forward and backward passes.
    Reference: Takeru Miyato, Shin-ichi Maeda, Masanori Koyama and Shin Ishii, "Virtual adversarial training: a
    regularization method for supervised and semi-supervised learning", TPAMI 2018, section 3; Takeru Miyato, Shin-ichi
    Maeda, Masanori Koyama, Ken Nakae and Shin Ishii, "Distributional smoothing with virtual adversarial training", ICLR
    2016, section 2.

    Raises:
        ValueError: a network with dropout or batch normalisation that is checkpointed.
    """

    eps: Factor = 2.1
    weight: Factor = 1.0
    iterations: Count = 1
    xi: Positive = 0.1
    clip: bool = False

    def setup(self, model: nn.Module, data: Dataset) -> "VAT":
        with rehearsal(model, data) as x, shared_dropout(model, len(x)), _no_recomputation(model):
            logits_of(model, x)
        return self

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        with shared_dropout(model, len(batch)), _no_recomputation(model):
            logits = logits_of(model, batch.x)
            with borrowed_buffers(model.modules()):
                near = logits_of(model, self._neighbours(model, batch, logits.detach()))
        return (cross_entropy(logits, batch.y) + self.weight * kl_divergence(logits.detach(), near)).mean()

    def _neighbours(self, model: nn.Module, batch: Batch, logits: Logits) -> Images:
        """x + r. A lambda instead of the module keeps the model's mode; p(x) is handed on and not computed again."""
        box = (0.0, 1.0) if self.clip else None
        attack = VirtualAdversarial(eps=self.eps, iterations=self.iterations, xi=self.xi, box=box)
        goal = Goal(batch.y, reference=logits)
        with Oracle(lambda x: logits_of(model, x), goal) as oracle:
            draws = Draws.start(batch.seeds, len(batch), batch.x.device).split(_DIRECTION)
            return attack.search(oracle, batch.x, goal, draws)


def _no_recomputation(model: nn.Module) -> AbstractContextManager[None]:
    """A recomputation would move running statistics once more, and by x + r too."""
    return no_recomputation(model, any(layer.training for layer in batchnorm_layers(model)))

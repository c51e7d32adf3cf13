"""The one-step attack."""

from dataclasses import dataclass, field
from functools import partial

from steelman.attacks.attack import Attack
from steelman.attacks.oracle import Oracle
from steelman.losses import CrossEntropy, Goal, Loss
from steelman.norms import L0, Linf, Norm, per_image
from steelman.randomness import Draws
from steelman.types import Images, Radius


@dataclass(frozen=True)
class FGSM(Attack):
    """Fast gradient sign method: one step of full length along the steepest ascent of the loss.

    x' = clip(x + eps * argmax_{|d| <= 1} <d, grad_x L(x, y)>): the sign of the gradient for Linf, the gradient over its
    L2 norm for L2 (there called FGM), its largest entry for L1.

    eps   radius, one number or one per image, in units of the images (default 8/255, the field's for CIFAR-10)
    norm  Linf (default), L2, L1
    loss  what is ascended (default cross-entropy with the given label; some libraries take the prediction instead)

    Cost: 1 forward and 1 gradient pass.
    Reference: Ian Goodfellow, Jonathon Shlens and Christian Szegedy, "Explaining and harnessing adversarial examples",
    ICLR 2015, section 4.
    """

    eps: Radius = 8 / 255
    norm: Norm = Linf
    loss: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        if self.norm is L0:
            raise ValueError("FGSM has one step of full length, which no bound on L0 gives; use PGD(norm=L0)")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        if self.loss.needs_reference:
            raise ValueError(
                f"{type(self.loss).__name__} has no gradient at the clean image; use PGD, which starts elsewhere"
            )
        _, _, gradient = oracle.gradient(x, partial(self.loss, goal=goal))
        step = self.norm.steepest(gradient) * per_image(self.eps, x)
        return self.norm.contain(x, x + step, self.eps, self.box)

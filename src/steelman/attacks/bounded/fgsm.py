"""The one-step attacks."""

from dataclasses import dataclass, field, replace
from typing import Annotated

from steelman.attacks.core import Attack, Ball, Draws, Images, Oracle, Radius, Share
from steelman.losses import CrossEntropy, Goal, Loss
from steelman.norms import L0, Linf, Norm, per_image
from steelman.ranges import Factor, OneOf


@dataclass(frozen=True)
class FGSM(Attack):
    """Fast gradient sign method: one step of full length along the steepest ascent of the loss.

    x' = the image of ball and box that is furthest along grad_x L(x, y): clip(x + eps sign(grad)) for Linf,
    clip(x + m grad) with the length eps for L2 (there called FGM), the steepest entries for L1 and L0.

    eps    radius, one number or one per image (default 8/255)
    norm   Linf (default), L2, L1, L0
    loss   cross-entropy (default), Margin, DLR
    exact  default True; False is clip(x + eps steepest(grad)), for L2 clip(x + eps grad / |grad|), which papers and
           CleverHans call FGM. It ends short of eps where the box binds, so the exact one is the stronger attack.
           Both are the same for Linf, and with box=None

    The paper has only Linf.

    Cost: 1 forward and 1 gradient pass.
    Reference: Ian J. Goodfellow, Jonathon Shlens and Christian Szegedy, "Explaining and harnessing adversarial
    examples", ICLR 2015, section 4.

    Raises:
        ValueError: a loss without gradient at the clean image, such as KL; L0 unless exact.
    """

    eps: Radius = Share(8 / 255)
    norm: Norm = Linf
    loss: Loss = field(default_factory=CrossEntropy)
    exact: bool = True

    def __post_init__(self) -> None:
        if self.norm is L0 and not self.exact:
            raise ValueError("FGSM counts entries in L0, so there is no step of length eps to clip; use exact=True")
        if self.loss.needs_reference:
            raise ValueError(
                f"{type(self.loss).__name__} has no gradient at the clean image, where FGSM starts; use PGD"
            )

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        _, _, gradient = oracle.ascent(x, self.loss, goal)
        if self.norm is Linf and self.exact:
            return Linf.corner(x, gradient.sign(), self.eps, self.box)
        ball = Ball.around(x, self.eps, self.norm, self.box)
        if self.exact:
            return ball.furthest(gradient)
        return ball.contain(x + per_image(self.eps, x) * self.norm.steepest(gradient))


@dataclass(frozen=True)
class RandomFGSM(Attack):
    """Random + FGSM: a random corner of a small ball first, then FGSM with the rest of eps.

    x_1 = clip(x + alpha sign(N(0, I))), x' = clip(x_1 + (eps - alpha) sign(grad L(x_1))). Where eps <= alpha, only
    noise is left: clip(x + eps sign(N(0, I))).

    eps    radius, one number or one per image (default 8/255)
    alpha  length of the random step, default .05 (as in "Efficient defenses against adversarial attacks"; paper: eps/2)
    norm   Linf, the only one
    loss   cross-entropy (default), Margin, DLR, KL

    Cost: 1 forward and 1 gradient pass; KL 1 forward pass more.
    Reference: Florian Tramer, Alexey Kurakin, Nicolas Papernot, Ian Goodfellow, Dan Boneh and Patrick McDaniel,
    "Ensemble adversarial training: attacks and defenses", ICLR 2018, section 3.

    Raises:
        ValueError: another norm.
    """

    eps: Radius = Share(8 / 255)
    alpha: Factor = Share(0.05)
    norm: Annotated[Norm, OneOf((Linf,), "Use PGD(steps=1)")] = Linf
    loss: Loss = field(default_factory=CrossEntropy)

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        if self.loss.needs_reference:
            goal = replace(goal, reference=oracle.logits(x))
        eps = per_image(self.eps, x)
        start = x + eps.clamp(max=self.alpha) * draws.normal(x.shape[1:], x.dtype).sign()
        start = start if self.box is None else start.clamp_(*self.box)
        _, _, gradient = oracle.ascent(start, self.loss, goal)
        far = start + (eps - self.alpha).clamp(min=0) * gradient.sign()
        return Linf.contain(x, far, self.eps, self.box)

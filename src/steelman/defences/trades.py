"""Training for accuracy, and for predictions that an attack does not move."""

from dataclasses import dataclass, fields, replace

from torch import Tensor, nn

from steelman.attacks.bounded.pgd import PGD
from steelman.attacks.core import Attack
from steelman.defences.adversarial import Adversarial, Crafting, check_attack, crafted
from steelman.forward import logits_of
from steelman.losses import KL, cross_entropy, kl_divergence
from steelman.ranges import Factor
from steelman.types import Batch


@dataclass(frozen=True)
class TRADES(Adversarial):
    """TRADES: cross-entropy on clean images, and the divergence of the predictions on clean and adversarial ones.

    CE(x, y) + beta KL(p(x) || p(x')), where x' = attack(model, x) maximises the same divergence and is a constant. The
    gradient flows into both arguments of the divergence.

    attack    its `loss` is replaced by `KL()`; an attack without that field is used as it is. Default the code's
              PGD(eps=.031, step_size=.007, normal_start=.001), 10 steps; MNIST: eps .3, 40 steps of .01. PGD(eps=8/255)
              starts uniformly in the ball
    beta      weight of the divergence, 1 / lambda in the paper; default 6 (paper; it also shows 1)
    crafting  mode of batch normalisation and dropout while crafting: "eval" (default, as the code) or "train"

    Paper and code: the paper has any calibrated loss of p(x) and p(x') for many classes; the code has the divergence.
    The code clips images after each step only, so that its first gradient is taken a little outside the box; here the
    start is clipped too. Batch normalisation sees the clean batch and the adversarial one separately, as in the code,
    which runs the clean one twice.

    Cost: the attack's, 1 forward pass more for the logits at x, and 2 forward and 2 backward passes.
    Reference: Hongyang Zhang, Yaodong Yu, Jiantao Jiao, Eric P. Xing, Laurent El Ghaoui and Michael I. Jordan,
    "Theoretically principled trade-off between robustness and accuracy", ICML 2019, section 4.

    Raises:
        ValueError: an attack that cannot climb the divergence: one that starts at x itself, where its gradient is 0, or
            has `targets`; an attack without a radius, or with one answer for all images.
    """

    attack: Attack = PGD(eps=0.031, steps=10, step_size=0.007, normal_start=0.001, loss=KL())
    beta: Factor = 6.0
    crafting: Crafting = "eval"

    def __post_init__(self) -> None:
        object.__setattr__(self, "attack", towards_divergence(self.attack))
        check_attack(self.attack, bounded=True)

    def craft(self, model: nn.Module, batch: Batch) -> Batch:
        return replace(batch, x=crafted(self.attack, model, batch, self.crafting))

    def loss(self, model: nn.Module, batch: Batch, made: Batch) -> Tensor:
        clean = logits_of(model, batch.x)
        divergence = kl_divergence(clean, logits_of(model, made.x))
        return (cross_entropy(clean, batch.y) + self.beta * divergence).mean()


def towards_divergence(attack: Attack) -> Attack:
    """The attack with `KL()` as its loss, if it has one; ValueError if it starts at x, where KL has no gradient."""
    names = {item.name for item in fields(attack)}
    if "loss" not in names:
        return attack
    if not getattr(attack, "random_start", True):
        raise ValueError(f"the divergence has no gradient at the clean image: give {attack} random_start=True")
    return replace(attack, loss=KL())

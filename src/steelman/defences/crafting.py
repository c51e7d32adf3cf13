"""How defences craft the images they train on."""

from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

from torch import nn

from steelman.attacks.core.attack import Attack
from steelman.attacks.core.mode import evaluation_mode
from steelman.forward import answer_of
from steelman.networks.surgery import borrowed_buffers
from steelman.types import Batch, Labels

T = TypeVar("T")

Crafting: TypeAlias = Literal["eval", "train"]
"""The mode of batch normalisation and dropout while crafting."""


def check_crafting(mode: str) -> None:
    """Raises ValueError for what is no mode."""
    if mode not in ("eval", "train"):
        raise ValueError(f'crafting is "eval" or "train"; got {mode!r}')


def check_attack(attack: Attack, radius: bool = False) -> None:
    """Raises ValueError for an attack that cannot serve a defence.

    Such is one that finds one answer for all images, so that it depends on how they are cut; and, where the defence
    needs a `radius`, one that has none, for it only looks for the smallest perturbation.
    """
    if attack.shared:
        raise ValueError(
            f"{type(attack).__name__} finds one answer for all images, which would change with the batch; train on an "
            "attack that treats each image alone, such as PGD"
        )
    if radius and getattr(attack, "eps", None) is None:
        raise ValueError(
            f"{type(attack).__name__} has no radius: it looks for the smallest perturbation, and this defence needs "
            "the worst image within eps. Use a bounded attack, such as PGD, or AdversarialTraining, which takes any"
        )


def crafted(
    attack: Callable[..., T], model: nn.Module, batch: Batch, mode: Crafting = "eval", *, target: Labels | None = None
) -> T:
    """What an attack, or what is called as one, makes of a batch, as constants, with the noise of the batch's seeds.

    Running statistics are put back afterwards, so that crafting never moves them.
    """
    if mode == "eval":
        with evaluation_mode(model):
            return attack(model, batch.x, batch.y, target=target, generator=batch.seeds)
    with borrowed_buffers(model.modules()):
        # A function, not a module: its mode is none of the attack's business.
        return attack(lambda x: answer_of(model, x), batch.x, batch.y, target=target, generator=batch.seeds)

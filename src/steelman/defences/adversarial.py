"""Objectives on images that an attack has made, and how an attack is called to make them."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

from torch import Tensor, nn

from steelman.attacks.core import Attack, evaluation_mode
from steelman.defences.objective import Objective
from steelman.forward import answer_of
from steelman.networks.surgery import borrowed_buffers
from steelman.types import Batch, Labels

T = TypeVar("T")

Crafting: TypeAlias = Literal["eval", "train"]
"""The mode of batch normalisation and dropout while crafting."""


class Adversarial(Objective):
    """An objective in two steps: craft images (and labels, where the method makes them), then a loss in which what was
    crafted is constant.

    They are apart so that one crafted batch can serve several losses: `AWP` takes it at two sets of weights.
    """

    @abstractmethod
    def craft(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch with everything that the loss needs and that is constant in it."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, made: Batch) -> Tensor:
        """A scalar, the mean over the batch; `made` is what `craft` has made of `batch`."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.loss(model, batch, self.craft(model, batch))


def check_attack(attack: Attack, bounded: bool = False) -> None:
    """Raises ValueError for an attack with one answer for all images, or a minimal one that has to be `bounded`."""
    if attack.shared:
        raise ValueError(
            f"{type(attack).__name__} finds one answer for all images, which would change with the batch; train on an "
            "attack that treats each image alone, such as PGD"
        )
    if bounded and attack.budget is None:
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
        # A function, not a module: an attack would put a module into evaluation mode.
        return attack(lambda x: answer_of(model, x), batch.x, batch.y, target=target, generator=batch.seeds)

"""What every defence is to the trainer: a game, which yields what to descend, into which tensors, and which network
then takes a step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import ClassVar, Generic, TypeAlias, TypeVar

from torch import Tensor, nn

from steelman.attacks.core.attack import Attack
from steelman.data.dataset import Dataset
from steelman.naming import call, nearest
from steelman.optimisers import Optimiser
from steelman.ranges import Checked
from steelman.schedules import Constant, Schedule
from steelman.types import CLASSIFIER, Batch

G = TypeVar("G", bound="Game")


@dataclass(frozen=True)
class Descend:
    """Add the gradient of `loss`, a mean over the batch, to exactly these tensors, and to no others on its way.

    Each descent consumes its graph, as `backward` does, unless it is to `keep` it.
    """

    loss: Tensor
    into: Iterable[Tensor]
    keep: bool = False


@dataclass(frozen=True)
class Average:
    """Average the gradients of this network over the processes, for the game to read and to clear.

    What was descended so far is not reported as the network's loss.
    """

    net: str = CLASSIFIER


@dataclass(frozen=True)
class Step:
    """Average the gradients of this network over the processes, take its optimiser's step, and clear them.

    With `clip`, gradients with a larger norm, all together, are scaled down to that norm.
    """

    net: str = CLASSIFIER
    clip: float | None = None


Updates: TypeAlias = Iterator[Descend | Average | Step]


@dataclass(frozen=True)
class Player:
    """One of a game's networks besides the classifier, and how it learns."""

    network: nn.Module
    optimiser: Optimiser
    schedule: Schedule = Constant()


class Game(Checked, ABC):
    """What a network is trained by. Most are an `Objective`; others need more than one loss, step or network.

    A game never touches an optimiser, a process or autocast. It continues when an update is done: after a `Step` it may
    change the weights. A subclass may define:

    setup             called once, before training: raises ValueError for a network or data that it cannot train, and
                      returns the game to train by: itself, or a copy with empty memory for the images of the data
    memory            the module whose buffers hold one row per image; `fit` keeps them in checkpoints and merges them
                      over processes, each of which writes only rows of its own images
    report            numbers from the memory for an epoch's line in the log
    players           the game's other networks, made with torch's global generator
    monitor           the attack by these networks as they are
    batch_statistics  whether batch normalisation uses the statistics of a batch, which one image may not have
    """

    frozen: ClassVar[bool] = False
    """Whether the classifier stays as it is; the best checkpoint is then that under which its accuracy is lowest."""
    classifies: ClassVar[bool] = True
    """Whether the network in the classifier's place is one. Where it is not, such as a generator, the best checkpoint
    is that of an objective's lowest mean on held-out images, and of any other game the last."""

    @abstractmethod
    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates: ...

    def setup(self: G, model: nn.Module, data: Dataset) -> G:
        return self

    @property
    def batch_statistics(self) -> bool:
        return True

    @property
    def memory(self) -> nn.Module | None:
        return None

    @property
    def report(self) -> dict[str, float]:
        return {}

    def players(self, data: Dataset) -> dict[str, Player]:
        return {}

    def monitor(self, nets: nn.ModuleDict) -> Attack | None:
        return None

    def __str__(self) -> str:
        return call(self) if is_dataclass(self) else repr(self)


class GameWrapper(Game, Generic[G]):
    """A game that is made of another one, and has its memory."""

    objective: G

    @property
    def batch_statistics(self) -> bool:
        return self.objective.batch_statistics

    @property
    def memory(self) -> nn.Module | None:
        return self.objective.memory

    @property
    def report(self) -> dict[str, float]:
        return self.objective.report


def players_of(game: Game, data: Dataset, given: Mapping[str, Player]) -> dict[str, Player]:
    """A game's networks besides the classifier, `given` ones in place of its own; ValueError for an unknown name."""
    own = game.players(data)
    for name in given:
        if name not in own:
            raise ValueError(f"{type(game).__name__} has no player {name!r}; {nearest(name, own)}")
    return {**own, **given}


def unweighted(loss: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that divides a gradient of `loss`, once that is descended, by the weight that the trainer gave it."""
    share: list[Tensor] = []
    loss.register_hook(share.append)
    return lambda gradient: gradient / share[0].where(share[0] != 0, 1)

"""What every defence is to the trainer: a game, which says what to descend, into which tensors, and who then moves."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import ClassVar, Generic, TypeVar

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
    """Add the gradient of `loss` to exactly these tensors, and to no others that it passes through.

    `loss` is a mean over the batch. Each descent consumes its graph, as `backward` does, unless it is to `keep` it.
    """

    loss: Tensor
    into: Iterable[Tensor]
    keep: bool = False


@dataclass(frozen=True)
class Average:
    """Average the gradients of this network over the processes, for the game to read; they stay until it clears them.

    What was descended so far was a means to an end, and is not reported as the network's loss.
    """

    net: str = CLASSIFIER


@dataclass(frozen=True)
class Step:
    """Average the gradients of this network over the processes, move it, clear them.

    With `clip`, gradients whose norm, all together, is above it are scaled down to that.
    """

    net: str = CLASSIFIER
    clip: float | None = None


@dataclass(frozen=True)
class Player:
    """One of a game's networks besides the classifier, and how it learns."""

    network: nn.Module
    optimiser: Optimiser
    schedule: Schedule = Constant()


class Game(Checked, ABC):
    """What a network is trained by. Most are an `Objective`; others need more than one loss, step or network.

    A game never touches an optimiser, a process or autocast. It goes on after each update when that is done: after a
    `Step` it may change the weights that moved.

    A method may define these hooks. `begin` is called once, before training: it raises ValueError for a network or data
    that cannot be trained so, and returns what to train by: the game itself or, where it keeps something for each
    image, a copy with fresh memory. `memory` is then the module whose buffers hold that; `fit` writes them into
    checkpoints and brings them together over processes. A buffer has a row per image, and a process writes only those
    of the images it is handed. `report` is what the memory says of an epoch, for its line in the log. `players` makes
    the game's other networks, fresh, from torch's global generator, and `monitor` is the attack that they are by now.
    """

    frozen: ClassVar[bool] = False
    """Whether the classifier stays as it is, and the best is what most of its answers fall to."""

    @abstractmethod
    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Average | Step]: ...

    def begin(self: G, model: nn.Module, data: Dataset) -> G:
        return self

    @property
    def batch_statistics(self) -> bool:
        """Whether batch normalisation runs on the statistics of a batch, which one image may not have."""
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


def players_of(game: Game, data: Dataset, given: Mapping[str, Player]) -> dict[str, Player]:
    """A game's networks besides the classifier; in place of its own, those that are given.

    Raises:
        ValueError: it has no player of that name.
    """
    own = game.players(data)
    for name in given:
        if name not in own:
            raise ValueError(f"{type(game).__name__} has no player {name!r}; {nearest(name, own)}")
    return {**own, **given}


class GameWrapper(Game, Generic[G]):
    """A game that is made of another one, whose memory it carries."""

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

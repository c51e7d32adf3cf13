"""Defences as updates: what to descend, into which tensors, and which network then moves."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from steelman.defences.objective import Objective
from steelman.types import Batch

CLASSIFIER = "classifier"


@dataclass(frozen=True)
class Descend:
    """Add the gradient of `loss` to exactly these tensors, and to no others that it passes through.

    `loss` is a mean over the batch. Each descent consumes its graph, as `backward` does.
    """

    loss: Tensor
    into: Iterable[Tensor]


@dataclass(frozen=True)
class Step:
    """Average the gradients of this network over the processes, move it, clear them."""

    net: str = CLASSIFIER


@runtime_checkable
class Game(Protocol):
    """A defence that one loss cannot express. It never touches an optimiser, a process or autocast."""

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Step]: ...


@dataclass(frozen=True)
class Minimise:
    """The game of an objective: one descent and one step, or one descent per micro-batch to save memory.

    The losses of the micro-batches are weighted by their share of the batch, so their sum is the batch's mean.
    """

    objective: Objective
    micro_batch: int | None = None

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Step]:
        net = nets[CLASSIFIER]
        size = self.micro_batch or max(len(batch), 1)
        for start in range(0, max(len(batch), 1), size):
            part = batch[start : start + size]
            share = len(part) / max(len(batch), 1)
            loss = self.objective(net, part)
            yield Descend(loss if share == 1 else loss * share, net.parameters())
        yield Step()

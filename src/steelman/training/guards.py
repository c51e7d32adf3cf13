"""Around a training: checks before it, a stop between two batches when asked for, each warning once."""

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from steelman.attacks.core.mode import evaluation_mode
from steelman.data.dataset import Dataset
from steelman.defences.game import Game
from steelman.defences.objective import MicroBatches, Objective
from steelman.forward import check_logits, logits_of


class Stop:
    """Whether the user or the system has asked training to stop."""

    requested = False


@contextmanager
def interrupts() -> Iterator[Stop]:
    """The first interrupt or SIGTERM sets `Stop.requested`; a second interrupt acts at once."""
    stop = Stop()

    def request(number: int, frame: object) -> None:
        stop.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone may handle signals
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def once_per_place() -> Iterator[None]:
    """Show only the first warning from each place in the code.

    Python itself also tells warnings apart by their text, which names other images in every batch.
    """
    with warnings.catch_warnings():
        show, seen = warnings.showwarning, set[tuple[str, int]]()

        def first(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
            if (filename, lineno) not in seen:
                seen.add((filename, lineno))
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = first
        yield


def device_of(model: nn.Module) -> torch.device:
    """Where a model is trained; raises ValueError unless it has something to train."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not learning:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient: there is nothing to train")
    return learning[0].device


def check_unattacked(defence: Game, monitor: object, tracked: int) -> None:
    """Raises ValueError where a network that does not classify is to be attacked after every epoch."""
    if monitor is not None or tracked:
        raise ValueError(
            f"{type(defence).__name__} trains no classifier, so that there is nothing to attack: leave out "
            f"training.{'track_test' if monitor is None else 'monitor'}"
        )


def check_model(model: nn.Module, data: Dataset) -> None:
    """Raises ValueError unless the model returns logits for these images, of as many classes as there are labels."""
    batch = next(data.batches([torch.arange(min(2, len(data)))]))
    highest = len(data.classes) - 1 if data.labels is None else int(data.labels.max())
    with torch.no_grad(), evaluation_mode(model):
        check_logits(logits_of(model, batch.x), len(batch), highest)


def game_of(defence: Game, micro_batch: int | None) -> Game:
    """The defence as it is played; raises ValueError where its batches cannot be divided."""
    if not isinstance(defence, Game):
        raise ValueError(f"a defence is an Objective or another Game; got {type(defence).__name__}")
    if micro_batch is None:
        return defence
    if not isinstance(defence, Objective):
        raise ValueError(
            f"micro_batch divides the batches of an Objective, and {type(defence).__name__} is none: leave it out"
        )
    return MicroBatches(defence, micro_batch)

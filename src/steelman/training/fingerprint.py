"""What must be the same for a stopped training to go on."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from steelman.attacks.core.attack import Attack
from steelman.data.dataset import Dataset
from steelman.defences.game import Game
from steelman.identity import digest, model_parts, without_address
from steelman.training.settings import Training
from steelman.training.trackers import KINDS
from steelman.types import CLASSIFIER

FREE = ("checkpoint_seconds", *KINDS)
"""Settings of `Training` that change nothing but what is written."""


def fingerprint(training: Training, defence: Game, nets: nn.ModuleDict, data: Dataset, **more: Any) -> dict[str, str]:
    """Everything that decides the outcome, under the name by which a user knows it.

    The classifier itself is among it where it stays as it is: it could have been trained anew in the meantime.
    """
    shapes = {name: tuple(value.shape) for name, value in nets.state_dict().items()}
    return {
        **{f"training.{item.name}": said(getattr(training, item.name)) for item in fields(training)},
        "defence": said(defence),
        "network, tensor or function in an attack": digest(list(_attacks(defence))),
        "architecture": digest(shapes),
        **({"frozen classifier": digest(model_parts(nets[CLASSIFIER]))} if defence.frozen else {}),
        "set of images": images_of(data),
        **{name: said(value) for name, value in more.items()},
    }


def refuse_other(ours: Mapping[str, str], found: Mapping[str, str], folder: Path) -> None:
    """Raises ValueError when a run was begun with other settings. One that it did not know had no effect on it."""
    free = {f"training.{name}" for name in FREE}
    changed = [name for name, value in ours.items() if name not in free and found.get(name, value) != value]
    if not changed:
        return
    told = "; ".join(
        f"another {name}" + (f" ({found[name]}, now {ours[name]})" if name.startswith("training.") else "")
        for name in changed
    )
    raise ValueError(f"{folder} holds a run with {told}: use another folder, or delete this one")


def _attacks(value: object) -> Iterator[Attack]:
    """The attacks in a defence. A user's own objective may keep count of what it has done, and is known by its text."""
    if isinstance(value, Attack):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _attacks(each)
    elif is_dataclass(value):
        for item in fields(value):
            yield from _attacks(getattr(value, item.name))


def images_of(data: Dataset) -> str:
    """What a data set is known by."""
    return f"{data.name}, {len(data)} images of {data.shape}, {data.digest()}"


def said(value: object) -> str:
    """A setting as it was written, the same in every process."""
    return without_address(repr(value))

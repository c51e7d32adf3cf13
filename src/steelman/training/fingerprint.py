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
from steelman.naming import complete
from steelman.training.settings import Training
from steelman.training.trackers import KINDS
from steelman.types import CLASSIFIER

FREE = ("checkpoint_seconds", *KINDS)
"""Settings of `Training` that only change what is written."""


def fingerprint(training: Training, defence: Game, nets: nn.ModuleDict, data: Dataset, **more: Any) -> dict[str, str]:
    """Everything that decides the outcome, by names that a user knows.

    That includes the classifier itself where it is frozen: it could have been trained anew in the meantime.
    """
    shapes = {name: tuple(value.shape) for name, value in nets.state_dict().items()}
    return {
        **{f"training.{item.name}": text_of(getattr(training, item.name)) for item in fields(training)},
        "defence": text_of(defence),
        "network, tensor or function in an attack": digest(list(_attacks(defence))),
        "architecture": digest(shapes),
        **({"frozen classifier": digest(model_parts(nets[CLASSIFIER]))} if defence.frozen else {}),
        "set of images": images_of(data),
        **{name: text_of(value) for name, value in more.items()},
    }


def extended(found: Mapping[str, str], training: Training) -> Mapping[str, str]:
    """A run's fingerprint; that of a run that ended where this training has its last end counts as this training's."""
    if not training.ends:
        return found
    *before, last = training.ends
    went = found.get("training.epochs") == text_of(last) and found.get("training.ends", "()") == text_of(tuple(before))
    ours = {"training.epochs": text_of(training.epochs), "training.ends": text_of(training.ends)}
    return {**found, **ours} if went else found


def refuse_other(ours: Mapping[str, str], found: Mapping[str, str], folder: Path) -> None:
    """Raises ValueError where a run was begun with other settings. A setting that it did not have had no effect."""
    free = {f"training.{name}" for name in FREE}
    changed = [name for name, value in ours.items() if name not in free and found.get(name, value) != value]
    if not changed:
        return
    differences = "; ".join(
        f"another {name}" + (f" ({found[name]}, now {ours[name]})" if name.startswith("training.") else "")
        for name in changed
    )
    raise ValueError(f"{folder} holds a run with {differences}: use another folder, or delete this one")


def _attacks(value: object) -> Iterator[Attack]:
    """The attacks in a defence. A user's own objective may change in use, and is identified by its text alone."""
    if isinstance(value, Attack):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _attacks(each)
    elif is_dataclass(value):
        for item in fields(value):
            yield from _attacks(getattr(value, item.name))


def images_of(data: Dataset) -> str:
    """What identifies a data set."""
    return f"{data.name}, {len(data)} images of {data.shape}, {data.digest()}"


def text_of(value: object) -> str:
    """A setting as it was written, the same in every process."""
    with complete():
        return without_address(repr(value))

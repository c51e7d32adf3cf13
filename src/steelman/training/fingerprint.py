"""What must be the same for a stopped training to go on."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steelman.data.dataset import Dataset
from steelman.defences.game import CLASSIFIER, Game
from steelman.sinks import KINDS
from steelman.training.settings import Training

FREE = ("checkpoint_seconds", *KINDS)
"""Settings of `Training` that change nothing but what is written."""


def fingerprint(training: Training, defence: Game, nets: nn.ModuleDict, data: Dataset, **more: Any) -> dict[str, str]:
    """Everything that decides the outcome, under the name by which a user knows it.

    The weights of a classifier are among it where it stays as it is: it could have been trained anew in the meantime.
    """
    shapes = {name: list(value.shape) for name, value in nets.state_dict().items()}
    labels = None if data.labels is None else data.labels.tolist()
    return {
        **{f"training.{item.name}": said(getattr(training, item.name)) for item in fields(training)},
        "defence": said(defence),
        "network": _digest(shapes),
        **({"classifier": _bits(nets[CLASSIFIER])} if defence.frozen else {}),
        "data": f"{data.name}, {len(data)} images of {data.shape}, labels {_digest(labels)}",
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


def said(value: object) -> str:
    """A setting as it was written, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # an object's address is another in every process


def _bits(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for value in net.state_dict().values():
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]

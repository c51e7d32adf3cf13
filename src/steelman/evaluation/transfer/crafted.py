"""Some images, crafted on one model and tested on others: the piece of work that a transfer is cut into."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steelman.attacks.attack import Attack
from steelman.evaluation.block import answers, placed, seeds_of
from steelman.evaluation.table import Evaluation
from steelman.norms import L0, L1, L2, Linf
from steelman.types import Batch, Model

if TYPE_CHECKING:
    import pyarrow

Crafted = dict[str, Tensor]
"""Perturbed images `x_adv`, and what each cost on its source: `forwards`, `gradients`, `seconds`."""


@dataclass(frozen=True)
class Piece:
    """A batch that is crafted on one source, or was, and tested on targets.

    place    of the batch among its source's
    attack   with its `name`, which seeds its noise
    rows     the name and parameters under which the targets' rows stand
    before   the targets' predictions of the unattacked images
    crafted  what was kept of an earlier time
    device   where the work is done; None: where models and images are
    """

    source: str
    place: int
    model: Model
    attack: Attack
    name: str
    seed: int
    batch: Batch
    targets: Mapping[str, Model]
    rows: tuple[str, str]
    before: Mapping[str, np.ndarray]
    crafted: Crafted | None
    device: str | None

    def work(self) -> "tuple[tuple[str, int], Crafted, dict[str, pyarrow.Table]]":
        """The source and place, the images, and each target's rows."""
        batch = self.batch
        if self.device is not None:
            batch = replace(batch, x=batch.x.to(self.device), y=batch.y.to(self.device))
        crafted = self._craft(batch) if self.crafted is None else self.crafted
        crafted = {name: value.to(batch.x.device) for name, value in crafted.items()}
        norm, eps = getattr(self.attack, "norm", None), getattr(self.attack, "eps", None)
        kind = {
            "attack": self.rows[0],
            "parameters": self.rows[1],
            "norm": None if norm is None else repr(norm),
            "eps": float("nan") if eps is None else float(eps),
        }
        tables = {
            name: _rows(placed(model, self.device), batch, crafted["x_adv"], kind, crafted, self.before[name])
            for name, model in self.targets.items()
        }
        return (self.source, self.place), {name: value.cpu() for name, value in crafted.items()}, tables

    def _craft(self, batch: Batch) -> Crafted:
        seeds = seeds_of(self.seed, self.name, batch.index)
        result = self.attack.run(placed(self.model, self.device), batch.x, batch.y, generator=seeds)
        seconds = torch.full((len(batch),), result.seconds / len(batch), dtype=torch.float64)
        cost = {"forwards": result.forwards, "gradients": result.gradients, "seconds": seconds}
        return {"x_adv": result.x_adv, **cost}


def _rows(
    model: Model,
    batch: Batch,
    x: Tensor,
    kind: Mapping[str, Any],
    cost: Mapping[str, Tensor],
    before: np.ndarray,
) -> "pyarrow.Table":
    """A model's rows for images `x` that were made of a batch; `before` are its predictions of the batch itself."""
    assert batch.index is not None
    prediction, loss = answers(model, x, batch.y)
    delta, size = x.double() - batch.x.double(), batch.x.double()
    tensors = {
        "image": batch.index,
        "label": batch.y,
        "prediction": prediction,
        "success": prediction != batch.y,
        "loss": loss,
        **{repr(norm).lower(): norm.size(delta) for norm in (L0, L1, L2, Linf)},
        "x_l2": L2.size(size),
        "x_linf": Linf.size(size),
        **{name: cost[name] for name in ("forwards", "gradients", "seconds")},
    }
    columns: dict[str, Any] = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
    columns["clean_prediction"] = before
    constant = {"space": "pixels", "away_from": "label", **kind}
    columns |= {name: np.full(len(batch), value) for name, value in constant.items()}
    return Evaluation.from_columns(columns).table


@dataclass(frozen=True)
class Kept:
    """Crafted images in a folder, a file for each source and attack, that are found again by what they are of."""

    folder: Path

    def has(self, key: Sequence[str]) -> bool:
        return self._path(key).is_file()

    def read(self, key: Sequence[str]) -> Crafted:
        from safetensors.torch import load_file

        return load_file(self._path(key))

    def write(self, key: Sequence[str], parts: Sequence[Crafted]) -> None:
        """All batches of one source, in order; whole or not at all."""
        from safetensors.torch import save_file

        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        save_file({name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}, partial)
        partial.replace(path)

    def _path(self, key: Sequence[str]) -> Path:
        return self.folder / f"{hashlib.sha256(repr(tuple(key)).encode()).hexdigest()[:16]}.safetensors"


def hashed(batches: Iterator[Batch]) -> str:
    """A hash of images, labels and places, however they are cut into batches."""
    parts = [hashlib.sha256() for _ in range(3)]
    for batch in batches:
        assert batch.index is not None
        for part, value in zip(parts, (batch.x, batch.y, batch.index), strict=True):
            part.update(value.cpu().numpy().tobytes())
    return hashlib.sha256(b"".join(part.digest() for part in parts)).hexdigest()[:16]

"""Tables that grow: what is there is read, checked against the model at hand, extended and kept."""

import hashlib
import platform
import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from steelman.attacks.attack import Attack
from steelman.attacks.from_prediction import FromPrediction
from steelman.data.dataset import Dataset
from steelman.evaluation.block import Space, method_of
from steelman.evaluation.table import CLEAN, Evaluation, said_of_unmet
from steelman.types import Model

if TYPE_CHECKING:
    import pyarrow

TABLE, PARTS = "table.parquet", "parts"
"""In an evaluation's folder: the table, and the blocks that are done while it is being made."""


class Shelf:
    """An evaluation's folder: its table, and beside it the blocks that an unfinished one has done."""

    def __init__(self, folder: Path) -> None:
        self.table, self.parts = folder / TABLE, folder / PARTS

    def read(self, about: Mapping[str, str]) -> Evaluation | None:
        """What is there; parts that are not whole, or of another model, are put away with a warning."""
        known = Evaluation.load(self.table) if self.table.is_file() else None
        for path in sorted(self.parts.glob("*.parquet")):
            try:
                part = Evaluation.load(path)
            except ValueError as error:
                warnings.warn(f"{error}; its images are attacked anew", stacklevel=4)
                path.unlink()
                continue
            if any(part.about.get(key) != about[key] for key in ("model", "data", "seed")):
                path.unlink()  # of an evaluation that nobody goes on with
            else:
                known = part if known is None else _over(known, part)
        return known

    def keep(self, table: "pyarrow.Table", about: Mapping[str, str]) -> None:
        if table.num_rows:
            taken = [int(path.stem) for path in self.parts.glob("*.parquet") if path.stem.isdigit()]
            Evaluation(table).with_about(about).save(self.parts / f"{max(taken, default=0) + 1:06}.parquet")

    def close(self, evaluation: Evaluation) -> None:
        evaluation.save(self.table)
        for path in (*self.parts.glob("*.parquet"), *self.parts.glob("*.partial")):
            path.unlink()
        if self.parts.is_dir() and not any(self.parts.iterdir()):
            self.parts.rmdir()


def merged(known: Evaluation | None, made: "list[pyarrow.Table]", names: Sequence[str], space: Space) -> Evaluation:
    """All rows, by attack in the order of names, then by image."""
    new = Evaluation.joined(made)
    whole = new if known is None else _over(known, new)
    order = {name: place for place, name in enumerate(dict.fromkeys([CLEAN, *whole.attacks, *names]))}
    places = {space: place for place, space in enumerate(whole.spaces)}
    attacks, spaces = ([at[name] for name in whole[key]] for key, at in (("attack", order), ("space", places)))
    keys = np.array([whole["image"], attacks, spaces])
    return Evaluation(whole.table.take(np.lexsort(keys)))


def _over(known: Evaluation, new: Evaluation) -> Evaluation:
    """The rows of both; where one stands in both, the new one.

    Raises:
        ValueError: they disagree about an image's label or its prediction before any attack.
    """
    ours, theirs = known.cells(), new.cells()
    for cell in theirs:
        if cell in ours and ours[cell] != theirs[cell]:
            raise ValueError(
                f"the table that is to be extended is not of this model and these images: it has label and prediction "
                f"{ours[cell]} for image {cell[0]} unattacked, and now they are {theirs[cell]}"
            )
    kept = np.array([cell not in theirs for cell in ours], bool)
    return Evaluation.joined([known.table.filter(kept), new.table])


def refuse_other(known: Evaluation, about: Mapping[str, str], named: Mapping[str, Attack], space: Space) -> None:
    for key, what in (("model", "another model"), ("data", "other images"), ("seed", "another seed")):
        theirs = known.about.get(key)
        if theirs and about[key] and theirs != about[key]:
            raise ValueError(
                f"the table that is to be extended is of {what} ({theirs}, now {about[key]}): begin a new one "
                "(--fresh, or another --folder)"
            )
    there = known.parameters
    for name, attack in named.items():
        now = repr(method_of(attack))
        now = f"FromPrediction({now})" if isinstance(attack, FromPrediction) else now
        if there.get((name, space), now) != now:
            raise ValueError(
                f"the table that is to be extended has another attack called {name}: {there[name, space]}, now {now}. "
                "Give it another name, or begin a new table (--fresh)"
            )


def about_of(model: Model, dataset: object, seed: int) -> dict[str, str]:
    """What a table is of: enough to tell another model, and to do it again."""
    data = dataset.name if isinstance(dataset, Dataset) else ""
    return {
        "model": fingerprint(model),
        "data": data,
        "seed": str(seed),
        "versions": f"steelman {version('steelman')}, PyTorch {torch.__version__}, Python {platform.python_version()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "date": date.today().isoformat(),
    }


def unmet_of(evaluation: Evaluation, named: Mapping[str, Attack], space: Space) -> dict[str, str]:
    """What a table says of the bounded attacks among `named` that had no image left to meet, beside those it knew."""
    found, there = evaluation.unmet, evaluation.parameters
    for name, attack in named.items():
        norm, eps = getattr(method_of(attack), "norm", None), getattr(method_of(attack), "eps", None)
        if norm is not None and eps is not None and (name, space) not in there:
            found[name, space] = repr(norm), float(eps)
    return said_of_unmet(found)


def fingerprint(model: Model) -> str:
    """A hash of a module's structure, parameters and buffers; empty for other callables, which cannot be told."""
    if not isinstance(model, nn.Module):
        return ""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]

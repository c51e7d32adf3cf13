"""Data sets that are made from the images of another."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from typing import Literal, final

import torch
from torch import Tensor

from steelman.data.dataset import Dataset
from steelman.identity import digest
from steelman.randomness import Draws, combine
from steelman.types import Batch

_NOISE = 0x9015E
"""Purpose of the noise in copies: no two uses of an image's seed may share their random numbers."""


@dataclass(frozen=True)
class Change(ABC):
    """Makes the images of a copy from the originals in `batch`, whenever they are read.

    `place` is the place of each image in the original set; `copy` the number of its copy: 0 is the original.
    """

    @abstractmethod
    def __call__(self, batch: Batch, place: Tensor, copy: Tensor) -> Batch: ...

    def to(self, device: torch.device | str) -> "Change":
        """The same change, with its tensors on `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


@final
class Copies(Dataset):
    """Another data set's images in several copies, copy by copy.

    Nothing is stored but the data of `change`. `index` counts on from copy to copy, so that no two images share one.

    data    the originals, in memory or streamed
    change  makes a copy's images
    copies  their numbers, default (0,): the originals, of which a change may replace other parts than pixels
    rows    which images of them all, default every one
    """

    def __init__(
        self, data: Dataset, change: Change, copies: Sequence[int] = (0,), *, rows: Tensor | None = None
    ) -> None:
        self.name, self.classes, self.shape = data.name, data.classes, data.shape
        self._data, self._change, self._copies = data, change, tuple(copies)
        count = len(self._copies) * len(data)
        self._rows = torch.arange(count, device=data.index.device) if rows is None else rows
        place, copy = self._origin(self._rows)
        span = int(data.index.max()) + 1 if len(data) else 0
        self.index = data.index[place] + span * copy
        self.labels = None if data.labels is None else data.labels[place]

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Batch]:
        wanted, again = tee(each.to(self._rows.device) for each in indices)
        originals = self._data.batches(self._origin(self._rows[each])[0] for each in wanted)
        for which, batch in zip(again, originals, strict=True):
            place, copy = (each.to(batch.x.device) for each in self._origin(self._rows[which]))
            yield replace(self._change(batch, place, copy), index=self.index[which].to(batch.x.device))

    def subset(self, index: Tensor) -> "Copies":
        return Copies(self._data, self._change, self._copies, rows=self._rows[index.to(self._rows.device)])

    def to(self, device: torch.device | str) -> "Copies":
        data = self._data.to(device)
        return Copies(data, self._change.to(device), self._copies, rows=self._rows.to(data.index.device))

    def digest(self) -> str:
        return digest((self._data.digest(), self._change, self._copies, self._rows))

    def _origin(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The place of each row in the original set, and the number of its copy."""
        copies = torch.tensor(self._copies, device=rows.device)
        return rows % len(self._data), copies[rows // len(self._data)]


@final
@dataclass(frozen=True)
class Noise(Change):
    """x + sigma d, with the same d whenever the copy is read: d is a hash of `seed`, the copy and the image's index."""

    sigma: float
    noise: Literal["normal", "uniform"]
    clip: bool
    seed: int

    def __call__(self, batch: Batch, place: Tensor, copy: Tensor) -> Batch:
        assert batch.index is not None
        draws = Draws(combine(torch.full_like(batch.index, self.seed), _NOISE, copy, batch.index))
        shape = batch.x.shape[1:]
        step = draws.normal(shape) if self.noise == "normal" else 2 * draws.uniform(shape) - 1
        x = batch.x + self.sigma * step
        return replace(batch, x=_where(copy > 0, x.clamp(0, 1) if self.clip else x, batch.x))


@final
@dataclass(frozen=True, eq=False)
class Stored(Change):
    """Images that were made before, one for each original."""

    images: Tensor

    def __call__(self, batch: Batch, place: Tensor, copy: Tensor) -> Batch:
        return replace(batch, x=_where(copy > 0, self.images[place], batch.x))


@final
@dataclass(frozen=True, eq=False)
class Paired(Change):
    """The originals, each with the versions of it that were made before, in `Batch.crafted`."""

    images: Tensor

    def __call__(self, batch: Batch, place: Tensor, copy: Tensor) -> Batch:
        return replace(batch, crafted=self.images[place])


@final
@dataclass(frozen=True, eq=False)
class Labelled(Change):
    """The originals, with class probabilities beside their labels."""

    soft: Tensor

    def __call__(self, batch: Batch, place: Tensor, copy: Tensor) -> Batch:
        return replace(batch, soft=self.soft[place])


def _where(flags: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(flags.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)

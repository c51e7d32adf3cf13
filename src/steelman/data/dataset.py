"""The contract of data sets: a length, a shape, class names, and batches by index."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from steelman.identity import digest, image_digests
from steelman.ranges import Checked
from steelman.types import Batch

AT_ONCE, FEW, NUMBERS = 1000, 100, 2**24
"""So many images, or numbers in them, are hashed at once; so few are read twice."""

Split = Literal["train", "test"]


class Dataset(ABC):
    """Images in [0, 1] with labels, read by index.

    A subset keeps the places of its images: `index` and `Batch.index` count in the set that was loaded. So the random
    numbers and the results of an image belong to it in every subset.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    """Of one image: (channels, height, width)."""
    index: Tensor
    """Each image's place in the set that was loaded."""
    labels: Tensor | None = None
    """All labels where they are known without reading the images, otherwise None."""

    def __len__(self) -> int:
        return len(self.index)

    @abstractmethod
    def batches(self, indices: Iterable[Tensor]) -> Iterator[Batch]:
        """One batch per tensor of places in this set, in order, on its device, with `index` filled in."""

    @abstractmethod
    def subset(self, index: Tensor) -> "Dataset":
        """The images at the places `index` of this set, in that order."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set, whose batches come on `device`."""

    def in_order(self, size: int) -> Iterator[Batch]:
        """All images once, from the first to the last, `size` at a time."""
        return self.batches(torch.arange(len(self)).split(size))

    def digest(self) -> str:
        """A hash of all pixels and labels, in order."""
        return digest((self.index, self._hashes(torch.arange(len(self)))))

    def _hashes(self, places: Tensor) -> list[np.ndarray]:
        """Hashes of the images at these places; none where images differ at each reading (random crops)."""
        once, again = ([image_digests(each.x, each.y) for each in self.batches([places[:FEW]])] for _ in range(2))
        if any((one != other).any() for one, other in zip(once, again, strict=True)):
            return []
        at_once = max(1, min(AT_ONCE, NUMBERS // math.prod(self.shape)))
        return [image_digests(each.x, each.y) for each in self.batches(places.split(at_once))]


@dataclass(frozen=True)
class Source(Checked, ABC):
    """The origin of a data set; the `[data]` section of a recipe."""

    @abstractmethod
    def load(self, split: Split, folder: Path | None = None) -> Dataset:
        """Read a split from `folder` (default: STEELMAN_DATA, then a cache), downloading where the network allows.

        Raises:
            FileNotFoundError: files are missing; says which, where to get them and where to put them.
            ValueError: a file is truncated, corrupt or does not match; names it.
        """


def check_split(split: str) -> None:
    """Raises ValueError for another split, instead of reading the test set."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r} (`split_off` makes a validation set)")


Data: TypeAlias = Dataset | tuple[Tensor, Tensor]
"""A data set, or images and labels as a pair of tensors."""

"""What every data set is to the rest: a length, a shape, class names, and batches by index."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from steelman.types import Batch

Split = Literal["train", "test"]


class Dataset(ABC):
    """Images in [0, 1] with labels, reached by index."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    """Of one image: (channels, height, width)."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, indices: Iterable[Tensor]) -> Iterator[Batch]:
        """One batch per index tensor, in order, on the data set's device, with `index` filled in."""

    @abstractmethod
    def subset(self, index: Tensor) -> "Dataset":
        """The images at `index`, in that order."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set, whose batches come on `device`."""


@dataclass(frozen=True)
class Source(ABC):
    """Where a data set comes from; the `[data]` section of a recipe."""

    @abstractmethod
    def load(self, split: Split, folder: Path | None = None) -> Dataset:
        """Read a split from `folder` (default: STEELMAN_DATA, then a cache), downloading where the network allows.

        Raises:
            FileNotFoundError: files are missing; says which, where to get them and where to put them.
            ValueError: a file is truncated, corrupt or does not match; names it.
        """

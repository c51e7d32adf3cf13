"""Data sets of torchvision, by their names there."""

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import folders
from steelman.data.memory import numbered
from steelman.data.pictures import picture
from steelman.data.stream import Streamed, pair
from steelman.files import reason_of
from steelman.naming import nearest
from steelman.ranges import Count, Natural

NAMES = {"train": ("train", "trainval"), "test": ("test", "val", "valid")}
"""What torchvision calls the splits; the first that a data set takes counts."""


@final
@dataclass(frozen=True)
class TorchVision(Source):
    """A data set of torchvision.datasets with pictures and classes, such as "STL10" or "Flowers102".

    name     there
    classes  their names; default: the data set's own `classes`, else 0 .. highest label of this split
    size     (height, width) to which each picture is scaled and, with another ratio of its sides, cropped evenly;
             default: no scaling, and then all must be of one size
    grey     read one channel instead of red, green and blue; default False
    workers  processes that read, default 0: this one

    Files are looked for, and downloaded, in the first data folder (`--data-dir`, `STEELMAN_DATA`, the user's cache).
    A data set must have the argument `train` or `split`. MNIST, CIFAR10 and others are built in (`data.MNIST`), and
    need no torchvision.
    """

    name: str
    classes: tuple[str, ...] = ()
    size: tuple[Count, Count] | None = None
    grey: bool = False
    workers: Natural = 0

    def load(self, split: Split, folder: Path | None = None) -> Streamed:
        check_split(split)
        kind = self._kind()
        found = _opened(kind, split, folders(folder)[0], self.name)
        given = next((getattr(found, each) for each in ("targets", "labels", "_labels") if hasattr(found, each)), None)
        labels = None if given is None else torch.as_tensor(given, dtype=torch.int64)
        classes = self.classes or tuple(map(str, getattr(found, "classes", ())))
        if not classes:
            if labels is None:
                raise ValueError(f"TorchVision({self.name!r}) has no names of classes: give classes = [...]")
            classes = numbered(self.name, int(labels.max()))
        items = _Items(found, self.size, "L" if self.grey else "RGB", self.name)
        shape = tuple(items[0][0].shape)
        return Streamed(self.name, items, shape, classes, labels=labels, workers=self.workers)

    def _kind(self) -> Any:
        try:
            library = importlib.import_module("torchvision.datasets")
        except Exception as error:  # RuntimeError beside a torch that it was not built for
            raise ImportError(
                f"TorchVision({self.name!r}) needs torchvision ({reason_of(error)}): pip install 'steelman[vision]'",
                name="torchvision",
            ) from error
        known = getattr(library, "__all__", ())
        if self.name not in known:
            raise ValueError(f"torchvision has no data set {self.name!r}; {nearest(self.name, known)}")
        return getattr(library, self.name)


def _opened(kind: Any, split: Split, root: Path, name: str) -> Any:
    """The part of a data set for a split; downloaded where it is not there and can be."""
    takes = inspect.signature(kind).parameters
    more = {"download": True} if "download" in takes else {}
    if "train" in takes:
        choices: list[dict[str, Any]] = [{"train": split == "train"}]
    elif "split" in takes:
        choices = [{"split": each} for each in NAMES[split]]
    else:
        raise ValueError(f"TorchVision({name!r}) has no splits: load it in a function, and name that (`External`)")
    problems = []
    for choice in choices:
        try:
            return kind(str(root), **choice, **more)
        except ValueError as error:  # an unknown name of a split
            problems.append(reason_of(error))
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"TorchVision({name!r}) is not in {root}, and could not be fetched: {reason_of(error)}"
            ) from error
    raise ValueError(f"TorchVision({name!r}) has no part for {split}: {problems[0]}")


class _Items:
    """Pictures of a data set of torchvision, in one size and mode."""

    def __init__(self, items: Any, size: tuple[int, int] | None, mode: str, name: str) -> None:
        self.items, self.size, self.mode, self.name = items, size, mode, name

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        image, label = pair(self.items[place])
        return picture(image, self.size, self.mode, f"{self.name}: image {place}"), int(label)

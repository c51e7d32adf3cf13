"""Data sets of Hugging Face's `datasets`, as `save_to_disk` writes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import find
from steelman.data.memory import numbered
from steelman.data.pictures import Pictures, part_of
from steelman.data.stream import IMAGES, LABELS, Streamed
from steelman.extras import require
from steelman.files import decoding
from steelman.ranges import Count, Natural


@final
@dataclass(frozen=True)
class HuggingFace(Source):
    """A folder that `DatasetDict.save_to_disk` wrote, with a column of pictures or arrays and one of labels.

    path     absolute, or relative to the working directory or a data folder
    image    the column of pictures; default: the first of type `Image`, or of a usual name ("image", "img")
    label    the column of labels; default: the first of type `ClassLabel`, or of a usual name ("label", "labels")
    size     (height, width) to which each picture is scaled and, with another ratio of its sides, cropped evenly;
             default: no scaling, and then all must be of one size
    grey     read one channel instead of red, green and blue; default False
    workers  processes that read, default 0: this one

    Classes are the names of the ClassLabel, else 0 .. highest label of both splits. The split for tests is "test",
    "validation", "val" or "valid". Arrow's files are mapped into memory, and pictures decoded when they are read, by
    the rules of `ImageFolder`; no code of the data set's author is run. A picture that is stored as a path is read from
    there.
    """

    path: str
    image: str = ""
    label: str = ""
    size: tuple[Count, Count] | None = None
    grey: bool = False
    workers: Natural = 0

    def load(self, split: Split, folder: Path | None = None) -> Streamed:
        check_split(split)
        require(f"HuggingFace({self.path!r})", "datasets", extra="hf")
        import datasets  # pyright: ignore[reportMissingImports]

        root = find(self.path, folder)
        with decoding(root, "a folder of datasets.DatasetDict.save_to_disk", "Save it there again"):
            whole: Any = datasets.load_from_disk(str(root))
        if not isinstance(whole, dict):
            raise ValueError(f"{root} has no splits: save datasets.DatasetDict({{'train': ..., 'test': ...}}) there")
        part = part_of(whole, split, root)
        kinds = {name: type(kind).__name__ for name, kind in part.features.items()}
        image = _column(self.image, kinds, "Image", IMAGES, root)
        label = _column(self.label, kinds, "ClassLabel", LABELS, root)
        labels = _numbers(part, label, root)
        classes = tuple(getattr(part.features[label], "names", ()))
        if not classes:
            classes = numbered(str(root), max(int(_numbers(each, label, root).max()) for each in whole.values()))
        if kinds[image] == "Image":  # its bytes; they are decoded by the rules of all pictures here
            part = part.cast_column(image, datasets.Image(decode=False))
        else:
            kind = getattr(part.features[image], "dtype", None)  # of an array; it would become int64
            how: dict[str, Any] = {"dtype": np.dtype(kind)} if kind else {}
            part = part.with_format("numpy", columns=[image], **how)
        cells = _Cells(part, image, root)
        items = Pictures(cells, labels, self.size, self.grey, cells.where)
        shape = tuple(items[0][0].shape)
        return Streamed(root.name, items, shape, classes, labels=labels, workers=self.workers)


def _column(named: str, kinds: dict[str, str], kind: str, usual: tuple[str, ...], where: Path) -> str:
    """The column that is named, else the first of a kind, else of a usual name."""
    candidates = [*(each for each in kinds if kinds[each] == kind), *(each for each in usual if each in kinds)]
    found = named or next(iter(candidates), "")
    if found not in kinds:
        what = "image" if usual is IMAGES else "label"
        raise ValueError(f"{where} has no column {found or what!r} among {', '.join(kinds)}: name it by {what} = ...")
    return found


def _numbers(part: Any, label: str, where: Path) -> torch.Tensor:
    values = np.asarray(part.select_columns([label]).with_format("numpy")[:][label])
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or not len(values):
        raise ValueError(f"{where}: the column {label!r} must hold integers; it holds {values.dtype} {values.shape}")
    return torch.from_numpy(values.astype(np.int64))


@dataclass(frozen=True)
class _Cells:
    """A column's cells by their rows; a class, so that it can be sent to another process."""

    part: Any
    column: str
    root: Path

    def __call__(self, place: int) -> object:
        return self.part[place][self.column]

    def where(self, place: int) -> str:
        return f"{self.root}: image {place}"

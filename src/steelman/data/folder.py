"""A folder of pictures."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import find
from steelman.data.pictures import SUFFIXES, Pictures
from steelman.data.stream import Streamed
from steelman.ranges import Count, Natural


@final
@dataclass(frozen=True)
class ImageFolder(Source):
    """Pictures in folders: path/train/CLASS/*.png and path/test/CLASS/*.png (or val/ for test/), read by Pillow.

    path     absolute, or relative to the working directory or a data folder
    size     (height, width) to which each picture is scaled and, with another ratio of its sides, cropped evenly;
             default: no scaling, and then all must be of one size
    grey     read one channel instead of red, green and blue; default False
    workers  processes that read, default 0: the one that trains

    Classes are the names of the folders in train/, sorted; pictures are sorted by class and name. They are streamed.
    Hidden folders and files (.git, ._1.png, __MACOSX) are left out. Pictures are rotated by their EXIF data; 16-bit
    grey PNG and PGM have white at 65535. Pictures that could be read in several ways (transparent, animated, CMYK,
    floating point) raise a ValueError when they are read.
    """

    path: str
    size: tuple[Count, Count] | None = None
    grey: bool = False
    workers: Natural = 0

    def load(self, split: Split, folder: Path | None = None) -> Streamed:
        check_split(split)
        root = find(self.path, folder)
        classes = _folders(root, "train")
        names = ("train",) if split == "train" else ("test", "val")
        part = next((root / name for name in names if (root / name).is_dir()), root / names[0])
        strangers = sorted({*_folders(root, part.name)} - {*classes})
        if strangers:
            raise ValueError(f"{part} has classes that {root / 'train'} lacks: {', '.join(strangers)}")
        files = _Files.of([part / name for name in classes])
        if not len(files.labels):
            raise ValueError(f"no pictures in the folders of {part}; these count: {', '.join(sorted(SUFFIXES))}")
        items = Pictures(files.path, files.labels, self.size, self.grey, files.where)
        shape = tuple(items[0][0].shape)
        return Streamed(root.name, items, shape, classes, labels=files.labels, workers=self.workers)


def _folders(root: Path, part: str) -> tuple[str, ...]:
    if not (root / part).is_dir():
        raise FileNotFoundError(f"{root} needs a folder {part}/ with one folder of pictures per class")
    return tuple(sorted(each.name for each in (root / part).iterdir() if each.is_dir() and not _hidden(each)))


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__MACOSX"))


@dataclass(frozen=True)
class _Files:
    """The paths of pictures: their names in one string, which takes a twentieth of what paths as objects take in every
    process that reads.

    folders  one for each class
    ends     where each name ends in `names`
    labels   the number of each one's folder
    """

    folders: Sequence[Path]
    names: bytes
    ends: np.ndarray
    labels: Tensor

    @staticmethod
    def of(folders: Sequence[Path]) -> "_Files":
        found = [[os.fsencode(name) for name in _pictures(folder)] for folder in folders]
        lengths = np.array([len(name) for names in found for name in names], np.int64)
        labels = torch.arange(len(folders)).repeat_interleave(torch.tensor([len(names) for names in found]))
        return _Files(folders, b"".join(name for names in found for name in names), lengths.cumsum(), labels)

    def path(self, place: int) -> Path:
        start, end = (int(self.ends[each]) if each >= 0 else 0 for each in (place - 1, place))
        return self.folders[int(self.labels[place])] / os.fsdecode(self.names[start:end])

    def where(self, place: int) -> str:
        return str(self.path(place))


def _pictures(folder: Path) -> list[str]:
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(name for name in names if Path(name).suffix.lower() in SUFFIXES and not _hidden(Path(name)))

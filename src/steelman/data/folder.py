"""A folder of pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import find
from steelman.data.pictures import SUFFIXES, picture
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
        files = [
            (file, label)
            for label, name in enumerate(classes)
            for file in sorted((part / name).glob("*"))
            if file.suffix.lower() in SUFFIXES and not _hidden(file)
        ]
        if not files:
            raise ValueError(f"no pictures in the folders of {part}; these count: {', '.join(sorted(SUFFIXES))}")
        items = _Pictures(files, self.size, "L" if self.grey else "RGB")
        labels = torch.tensor([label for _, label in files])
        return Streamed(root.name, items, tuple(items[0][0].shape), classes, labels=labels, workers=self.workers)


def _folders(root: Path, part: str) -> tuple[str, ...]:
    if not (root / part).is_dir():
        raise FileNotFoundError(f"{root} needs a folder {part}/ with one folder of pictures per class")
    return tuple(sorted(each.name for each in (root / part).iterdir() if each.is_dir() and not _hidden(each)))


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__MACOSX"))


class _Pictures:
    """(pixels, label) by place."""

    def __init__(self, files: list[tuple[Path, int]], size: tuple[int, int] | None, mode: str) -> None:
        self.files, self.size, self.mode = files, size, mode

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        file, label = self.files[place]
        return picture(file, self.size, self.mode), label

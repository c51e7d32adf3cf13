"""A folder of pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import find
from steelman.data.stream import Streamed, pixels

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


@final
@dataclass(frozen=True)
class ImageFolder(Source):
    """Pictures in folders: path/train/CLASS/*.png and path/test/CLASS/*.png (or val/ for test/), read by Pillow.

    path     absolute, or relative to the working directory or a data folder
    size     (height, width) to which each picture is scaled, what is left over being cut off evenly; default: as they
             are, and then all must be of one size
    grey     read one channel instead of red, green and blue; default False
    workers  processes that read, default 0: the one that trains

    Classes are the names of the folders in train/, sorted; pictures are sorted by class and name. They are streamed.
    """

    path: str
    size: tuple[int, int] | None = None
    grey: bool = False
    workers: int = 0

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
            if file.suffix.lower() in _SUFFIXES
        ]
        if not files:
            raise ValueError(f"no pictures in the folders of {part}; these count: {', '.join(sorted(_SUFFIXES))}")
        items = _Pictures(files, self.size, "L" if self.grey else "RGB")
        labels = torch.tensor([label for _, label in files])
        return Streamed(root.name, items, tuple(items[0][0].shape), classes, labels=labels, workers=self.workers)


def _folders(root: Path, part: str) -> tuple[str, ...]:
    if not (root / part).is_dir():
        raise FileNotFoundError(f"{root} needs a folder {part}/ with one folder of pictures per class")
    return tuple(sorted(each.name for each in (root / part).iterdir() if each.is_dir()))


class _Pictures:
    """(pixels, label) by place."""

    def __init__(self, files: list[tuple[Path, int]], size: tuple[int, int] | None, mode: str) -> None:
        self.files, self.size, self.mode = files, size, mode

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        from PIL import Image, ImageOps

        file, label = self.files[place]
        try:
            with Image.open(file) as picture:
                image = picture.convert(self.mode)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise ValueError(f"{file} is not a picture, or truncated or corrupt: {error}") from error
        if self.size is not None:
            height, width = self.size
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        return pixels(image), label

"""A folder of pictures."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import find
from steelman.data.stream import Streamed, pixels
from steelman.files import decoding, refuse_bomb
from steelman.ranges import Count, Natural

if TYPE_CHECKING:
    import PIL.Image

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")
_WHITE_16 = 65535
_REMEDY = "It may be truncated, damaged or far too large: save it again"
_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


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
            if file.suffix.lower() in _SUFFIXES and not _hidden(file)
        ]
        if not files:
            raise ValueError(f"no pictures in the folders of {part}; these count: {', '.join(sorted(_SUFFIXES))}")
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
        from PIL import Image, ImageOps

        file, label = self.files[place]
        image = _read(file, self.mode)
        if self.size is not None:
            height, width = self.size
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        if image.mode != "F":
            return pixels(image), label
        grey = (pixels(image) / _WHITE_16).clamp(0, 1)
        return grey if self.mode == "L" else grey.repeat(3, 1, 1), label


def _read(file: Path, mode: str) -> "PIL.Image.Image":
    """A picture in this mode, or in "F" with values 0 .. 65535 where it has 16 bits."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Of the formats, only those of these names: others run programs, such as Ghostscript.
        with decoding(file, "a picture", _REMEDY), Image.open(file, formats=_FORMATS) as whole:
            if whole.format == "PNG":
                whole.verify()  # its checksums, which are not checked otherwise; the picture has to be opened again
        with decoding(file, "a picture", _REMEDY), Image.open(file, formats=_FORMATS) as picture:
            refuse_bomb(3 * picture.width * picture.height, file.stat().st_size)
            problem, deep = _problem(picture), picture.mode in _DEEP
            image = None if problem else ImageOps.exif_transpose(picture).convert("F" if deep else mode)
    if image is None:
        raise ValueError(f"{file} {problem}")
    return image


def _problem(picture: Any) -> str:
    """Why a picture could be read in several ways, with the remedy; "" where it cannot."""
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":  # a JPEG of a camera, with a preview
        return f"has {picture.n_frames} pictures (an animation, or pages), and one is needed: save the right one alone"
    mode, transparent = picture.mode, picture.has_transparency_data
    if mode == "F" or (mode in _DEEP and not (picture.format in ("PNG", "PPM") and not transparent)):
        return f"has pixels of type {mode}, of which white is not known: save it with 8 bits, or as a 16-bit grey PNG"
    if mode not in _DEEP and _is_deep(picture):
        return "has 16 bits per colour, of which Pillow reads 8: save it with 8 bits"
    if mode not in (*_DEEP, "1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        return f"has colours of type {mode}, which can become red, green and blue in several ways: save it as RGB"
    if transparent and picture.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        return "is transparent, and its background is not known: save it on one, without transparency"
    return ""


def _is_deep(picture: Any) -> bool:
    """Whether a picture that is read in 8 bits has more."""
    for tile in picture.tile:
        options = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(each, str) and ";16" in each for each in options):
            return True
        if tile[0] in ("ppm", "ppm_plain") and options[-1] > 255:
            return True
    return False

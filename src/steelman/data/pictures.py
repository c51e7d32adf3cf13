"""Pictures in files, in bytes and in Pillow's own form: read in one way, or refused."""

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from steelman.files import decoding, refuse_bomb

if TYPE_CHECKING:
    import PIL.Image

T = TypeVar("T")

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")
_WHITE_16 = 65535
_REMEDY = "It may be truncated, damaged or far too large: save it again"
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


def pixels(image: object) -> Tensor:
    """A tensor as it is; an array, its channels first where they are last (1, 3 or 4 of them); a picture as uint8.

    Pictures are Pillow's, bytes of a file, or mappings with "bytes" or "path", as Hugging Face's `datasets` has them.
    """
    if isinstance(image, Tensor):
        return image
    if isinstance(image, bytes | Mapping):
        return picture(image)
    values = torch.from_numpy(np.array(image))
    if values.ndim == 2:
        return values[None]
    last = values.ndim == 3 and values.shape[2] in _CHANNELS and values.shape[0] not in _CHANNELS
    return values.permute(2, 0, 1).contiguous() if last or not isinstance(image, np.ndarray | list) else values


_CHANNELS = (1, 3, 4)


def picture(source: object, size: tuple[int, int] | None = None, mode: str = "RGB", name: object = None) -> Tensor:
    """A picture as uint8 (channels, height, width); as floating point where it has 16 bits.

    source  a file, its bytes, a mapping with "bytes" or "path", one of Pillow's, or a uint8 array
    size    (height, width) to which it is scaled and, with another ratio of its sides, cropped evenly
    mode    "RGB", or "L" for one channel
    name    in errors

    Raises:
        ValueError: it is damaged, or could be read in several ways.
    """
    from PIL import Image, ImageOps

    if isinstance(source, Mapping):
        if not (source.get("bytes") or source.get("path")):
            raise ValueError(f"{name or 'a picture'} has neither bytes nor a path")
        source = source.get("bytes") or Path(source["path"])
    if isinstance(source, Path | bytes):
        image = _read(source, mode, source if isinstance(source, Path) else name or "a picture")
    else:
        given = source if isinstance(source, Image.Image) else _drawn(source, name)
        if problem := _problem(given):
            raise ValueError(f"{name or 'a picture'} {problem}")
        image = given.convert("F" if given.mode in _DEEP else mode)
    if size is not None:
        height, width = size
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    if image.mode != "F":
        return pixels(image)
    grey = (pixels(image) / _WHITE_16).clamp(0, 1)
    return grey if mode == "L" else grey.repeat(3, 1, 1)


def _drawn(source: object, name: object) -> "PIL.Image.Image":
    """An array of bytes as a picture."""
    from PIL import Image

    values = pixels(source)
    if values.dtype != torch.uint8 or values.ndim != 3 or len(values) not in (1, 3):
        raise ValueError(
            f"{name or 'an image'} is {values.dtype} of shape {tuple(values.shape)}: only pictures and uint8 arrays of "
            "1 or 3 channels can be scaled or become grey; leave out size and grey"
        )
    return Image.fromarray(values.permute(1, 2, 0).numpy().squeeze())


def _read(source: Path | bytes, mode: str, name: object) -> "PIL.Image.Image":
    """A picture in this mode, or in "F" with values 0 .. 65535 where it has 16 bits."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Of the formats, only those of these names: others run programs, such as Ghostscript.
        with decoding(name, "a picture", _REMEDY), Image.open(_stream(source), formats=_FORMATS) as whole:
            if whole.format == "PNG":
                whole.verify()  # its checksums, which are not checked otherwise; the picture has to be opened again
        with decoding(name, "a picture", _REMEDY), Image.open(_stream(source), formats=_FORMATS) as picture:
            refuse_bomb(
                3 * picture.width * picture.height, len(source) if isinstance(source, bytes) else source.stat().st_size
            )
            problem, deep = _problem(picture), picture.mode in _DEEP
            image = None if problem else ImageOps.exif_transpose(picture).convert("F" if deep else mode)
    if image is None:
        raise ValueError(f"{name} {problem}")
    return image


def _stream(source: Path | bytes) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source


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
    for tile in getattr(picture, "tile", ()):  # none where it comes from no file
        options = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(each, str) and ";16" in each for each in options):
            return True
        if tile[0] in ("ppm", "ppm_plain") and options[-1] > 255:
            return True
    return False


class Pictures:
    """Items that are pictures, decoded, scaled and in one mode, with their labels.

    read   gives the source (see `picture`) of an item by its place
    where  what errors call an image, by its place
    """

    def __init__(
        self,
        read: Callable[[int], object],
        labels: Tensor,
        size: tuple[int, int] | None,
        grey: bool,
        where: Callable[[int], str],
    ) -> None:
        self.read, self.labels, self.size, self.where = read, labels, size, where
        self.mode = "L" if grey else "RGB"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        source = self.read(place)
        if isinstance(source, np.ndarray) and self.size is None and self.mode == "RGB":
            return pixels(source), int(self.labels[place])
        return picture(source, self.size, self.mode, self.where(place)), int(self.labels[place])


def part_of(parts: Mapping[str, T], split: str, where: object) -> T:
    """A split by one of its usual names: "train"; "test", "validation", "val" or "valid".

    Raises:
        ValueError: there is none.
    """
    names = ("train",) if split == "train" else ("test", "validation", "val", "valid")
    found = next((name for name in names if name in parts), None)
    if found is None:
        raise ValueError(f"{where} has no part for {split} ({', '.join(names)}); it has {', '.join(parts) or 'none'}")
    return parts[found]

"""Images in a file of arrays."""

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import find
from steelman.data.memory import InMemory, numbered
from steelman.files import decoding, reason_of, refuse_bomb


def read_npz(file: Path, *names: str) -> list[np.ndarray]:
    """Arrays of an .npz file, by name, without unpickling.

    Raises:
        ValueError: not such a file, damaged, or an array is missing or would have to be unpickled.
    """
    with decoding(file, "an .npz file of numbers"), zipfile.ZipFile(file) as archive:
        stored = [name.removesuffix(".npy") for name in archive.namelist()]
        arrays = {name: _member(archive, name, file.stat().st_size) for name in names if name in stored}
    if len(arrays) < len({*names}):
        others = reason_of(ValueError(", ".join(stored) or "none"))
        raise ValueError(f"{file} needs the arrays {', '.join(names)}; it has {others}")
    return [arrays[name] for name in names]


def _member(archive: zipfile.ZipFile, name: str, stored: int) -> np.ndarray:
    """An array. Its size is checked before it is read, its checksum at its end."""
    member = archive.getinfo(f"{name}.npy")
    refuse_bomb(member.file_size, stored)
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in headers:
            raise ValueError(f"the array {name} is of format {version}")
        shape, by_columns, kind = headers[version](stream)
        size = math.prod(shape) * kind.itemsize
        if kind.hasobject or size != member.file_size - stream.tell():
            raise ValueError(f"the array {name} is not {shape} numbers, of which nothing has to be unpickled")
        content = bytearray(stream.read())
    return np.frombuffer(content, kind).reshape(shape, order="F" if by_columns else "C")


@final
@dataclass(frozen=True)
class Arrays(Source):
    """An .npz file with the arrays x_train, y_train, x_test and y_test, as Keras' mnist.npz. Nothing is unpickled.

    file           absolute, or relative to the working directory or a data folder
    classes        their names; default: the numbers 0 .. highest label of both splits
    channels_last  images are (n, height, width, channels) and not (n, channels, height, width); default False.
                   (n, height, width) is one channel either way

    Images are uint8, or floating point in [0, 1]; labels are integers.
    """

    file: str
    classes: tuple[str, ...] = ()
    channels_last: bool = False

    def load(self, split: Split, folder: Path | None = None) -> InMemory:
        check_split(split)
        file = find(self.file, folder)
        images, labels, *all_labels = read_npz(file, f"x_{split}", f"y_{split}", "y_train", "y_test")
        for each in all_labels:
            if not np.issubdtype(each.dtype, np.integer):
                raise ValueError(f"{file}: y_train and y_test should hold integers; got {each.dtype}")
        labels = labels.squeeze()
        if images.ndim == 3:
            images = images[:, None]
        elif images.ndim == 4 and self.channels_last:
            images = images.transpose(0, 3, 1, 2)
        if images.ndim != 4 or images.shape[1] > 4:
            raise ValueError(
                f"{file}: x_{split} should have shape (n, channels, height, width), and read as such it has "
                f"{images.shape}. Is channels_last right?"
            )
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"{file}: x_{split} should be uint8, or floating point in [0, 1]; got {images.dtype}")
        highest = max(int(each.max(initial=0)) for each in all_labels)
        classes = self.classes or numbered(str(file), highest)
        kind = np.dtype(min(images.dtype, np.dtype(np.float64), key=lambda each: each.itemsize)).newbyteorder("=")
        pixels = torch.from_numpy(np.ascontiguousarray(images.astype(kind, copy=False)))
        return InMemory(str(file), pixels, torch.from_numpy(labels.astype(np.int64)), classes)

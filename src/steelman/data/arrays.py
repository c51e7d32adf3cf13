"""Images that are already arrays."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import find
from steelman.data.memory import InMemory


def read_npz(file: Path, *names: str) -> list[np.ndarray]:
    """Arrays of an .npz file, by name, without unpickling.

    Raises:
        ValueError: not such a file, damaged, or an array is missing or would have to be unpickled.
    """
    try:
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as stored:
            return [stored[name] for name in names]
    except KeyError as error:
        raise ValueError(f"{file} needs the arrays {', '.join(names)}: {error}") from error
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as an .npz file of numbers: {error}") from error


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
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{file}: y_{split} should hold integers; got {labels.dtype}")
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"{file}: x_{split} should be uint8, or floating point in [0, 1]; got {images.dtype}")
        highest = max(int(each.max(initial=0)) for each in all_labels)
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        tags = torch.from_numpy(labels.astype(np.int64))
        return InMemory(str(file), pixels, tags, self.classes or tuple(map(str, range(highest + 1))))

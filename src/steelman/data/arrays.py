"""Images that are already arrays."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from steelman.data.dataset import Source, Split
from steelman.data.files import check_split, find
from steelman.data.memory import InMemory


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
        try:
            with np.load(file, allow_pickle=False) as stored:
                images, labels = stored[f"x_{split}"], stored[f"y_{split}"].squeeze()
                highest = max(int(stored[f"y_{each}"].max(initial=0)) for each in ("train", "test"))
        except KeyError as error:
            raise ValueError(f"{file} needs the arrays x_train, y_train, x_test and y_test: {error}") from error
        except (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file} cannot be read as an .npz file of numbers: {error}") from error
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
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        tags = torch.from_numpy(labels.astype(np.int64))
        return InMemory(str(file), pixels, tags, self.classes or tuple(map(str, range(highest + 1))))

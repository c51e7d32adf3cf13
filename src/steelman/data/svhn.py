"""Street View House Numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import Remote, locate
from steelman.data.mat import read_mat
from steelman.data.memory import InMemory

_MD5 = {"train": "e26dedcc434d2e4c54c9b2d4a06d8373", "test": "eb5a983be6a315427106f1b164d9cef3"}


@final
@dataclass(frozen=True)
class SVHN(Source):
    """House numbers, cropped to one digit (format 2 of the authors): 73,257 + 26,032 images of 3x32x32.

    The files have label 10 for the digit 0; here it is 0. Searched as {train,test}_32x32.mat in a data folder, or in
    its svhn/ or SVHN/.
    Reference: Netzer et al., "Reading digits in natural images with unsupervised feature learning", 2011.
    """

    def load(self, split: Split, folder: Path | None = None) -> InMemory:
        check_split(split)
        name = f"{split}_32x32.mat"
        url = f"http://ufldl.stanford.edu/housenumbers/{name}"
        (file,) = locate([Remote(name, _MD5[split], (url,))], ("svhn", "SVHN", "."), folder)
        pixels, tags = read_mat(file, "X", "y")
        tags = tags.reshape(-1)
        if pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"{file}: X should be uint8 of shape 32x32x3xN; got {pixels.dtype} {pixels.shape}")
        if tags.size != pixels.shape[3] or tags.size == 0:
            raise ValueError(f"{file} has {pixels.shape[3]} images and {tags.size} labels")
        if tags.dtype.kind not in "uif" or not (tags == np.round(tags)).all():
            raise ValueError(f"{file}: y should hold whole numbers; got {tags.dtype}, such as {tags[0]!s:.20}")
        if tags.min() < 1 or tags.max() > 10:
            raise ValueError(f"{file} has labels from {tags.min()} to {tags.max()}; they should lie in 1 .. 10")
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))
        labels = torch.from_numpy(tags.astype(np.int64) % 10)
        return InMemory("SVHN", images, labels, tuple("0123456789"))

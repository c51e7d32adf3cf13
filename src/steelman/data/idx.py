"""MNIST and the data sets in its format, IDX files."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import Remote, exactly, locate, opened
from steelman.data.memory import InMemory
from steelman.files import decoding


def read_idx(file: Path, dimensions: int) -> Tensor:
    """The unsigned bytes of an IDX file, plain or gzipped, as a uint8 tensor.

    Raises:
        ValueError: damaged, another type or number of dimensions than asked for, or a length that does not match them.
    """
    with decoding(file, f"an IDX file of unsigned bytes in {dimensions} dimensions"), opened(file) as stream:
        header = stream.read(4 + 4 * dimensions)
        magic, *sizes = struct.unpack(f">{1 + dimensions}I", header)
        if magic != 0x0800 + dimensions:  # unsigned bytes, so many dimensions
            raise ValueError(f"its magic number is {magic:#010x} and should be {0x0800 + dimensions:#010x}")
        content = exactly(stream, math.prod(sizes), file.stat().st_size)
    values = torch.frombuffer(content, dtype=torch.uint8) if content else torch.zeros(0, dtype=torch.uint8)
    return values.reshape(sizes)


@dataclass(frozen=True)
class _InIdxFiles(Source):
    """A data set of two IDX files per split, under MNIST's file names."""

    inside: ClassVar[tuple[str, ...]]
    mirrors: ClassVar[tuple[str, ...]]
    classes: ClassVar[tuple[str, ...]]
    md5: ClassVar[dict[str, tuple[str, str]]]
    """By split, of the images and of the labels."""

    def load(self, split: Split, folder: Path | None = None) -> InMemory:
        check_split(split)
        part = {"train": "train", "test": "t10k"}[split]
        names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        wanted = [
            Remote(f"{name}.gz", md5, tuple(f"{mirror}{name}.gz" for mirror in self.mirrors), also=(name,))
            for name, md5 in zip(names, self.md5[split], strict=True)
        ]
        pixels, tags = locate(wanted, self.inside, folder)
        images, labels = read_idx(pixels, 3), read_idx(tags, 1)
        if len(images) != len(labels) or len(images) == 0:
            raise ValueError(f"{pixels} has {len(images)} images and {tags} has {len(labels)} labels")
        if labels.max() >= len(self.classes):
            raise ValueError(f"{tags} has the label {labels.max()}; {len(self.classes) - 1} is the highest")
        return InMemory(type(self).__name__, images[:, None], labels.to(torch.int64), self.classes)


@final
@dataclass(frozen=True)
class MNIST(_InIdxFiles):
    """Handwritten digits: 60,000 + 10,000 images of 1x28x28.

    Searched in a data folder's mnist/, MNIST/raw/ (torchvision's), MNIST/ and in the folder itself, gzipped or plain.
    Reference: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE 1998.
    """

    inside = ("mnist", "MNIST/raw", "MNIST", ".")
    mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
    classes = tuple("0123456789")
    md5: ClassVar = {
        "train": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
        "test": ("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
    }


@final
@dataclass(frozen=True)
class FashionMNIST(_InIdxFiles):
    """Pictures of clothes in MNIST's shape: 60,000 + 10,000 images of 1x28x28.

    Searched in fashion-mnist/, FashionMNIST/raw/ (torchvision's) or FashionMNIST/, and in the data folder itself only
    if that has such a name: its files have the same names as MNIST's.
    Reference: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms", arXiv 1708.07747, 2017.
    """

    inside = ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST")
    mirrors = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
    classes = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    md5: ClassVar = {
        "train": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
        "test": ("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
    }


@final
@dataclass(frozen=True)
class KMNIST(_InIdxFiles):
    """Cursive Japanese characters in MNIST's shape: 60,000 + 10,000 images of 1x28x28.

    Searched in kmnist/, KMNIST/raw/ (torchvision's) or KMNIST/, and in the data folder itself only if that has such a
    name: its files have the same names as MNIST's.
    Reference: Clanuwat et al., "Deep learning for classical Japanese literature", arXiv 1812.01718, 2018.
    """

    inside = ("kmnist", "KMNIST/raw", "KMNIST")
    mirrors = ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",)
    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    md5: ClassVar = {
        "train": ("bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344"),
        "test": ("5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134"),
    }

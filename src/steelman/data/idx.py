"""MNIST and its look-alikes, which come as IDX files."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor

from steelman.data.dataset import Source, Split
from steelman.data.files import Remote, check_split, locate, unpacked
from steelman.data.memory import InMemory


def read_idx(file: Path, dimensions: int) -> Tensor:
    """The unsigned bytes of an IDX file, plain or gzipped, as a uint8 tensor.

    Raises:
        ValueError: another type or number of dimensions than asked for, or a length that does not match them.
    """
    content = unpacked(file)
    header = 4 + 4 * dimensions
    magic = 0x0800 + dimensions  # unsigned bytes, so many dimensions
    if len(content) < header or struct.unpack_from(">I", content)[0] != magic:
        raise ValueError(
            f"{file} is not an IDX file of unsigned bytes in {dimensions} dimensions (magic {magic:#010x})"
        )
    sizes = struct.unpack_from(f">{dimensions}I", content, 4)
    if len(content) != header + math.prod(sizes):
        raise ValueError(
            f"{file} is truncated or corrupt: its header promises {'x'.join(map(str, sizes))} bytes, "
            f"and {len(content) - header} follow"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(sizes)


@dataclass(frozen=True)
class _Idx(Source):
    """Two IDX files per split, with the names that MNIST gave them."""

    _inside: ClassVar[tuple[str, ...]]
    _md5: ClassVar[dict[str, str]]
    _mirrors: ClassVar[tuple[str, ...]]
    _classes: ClassVar[tuple[str, ...]]

    def load(self, split: Split, folder: Path | None = None) -> InMemory:
        check_split(split)
        part = "train" if split == "train" else "t10k"
        names = (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz")
        wanted = [Remote(name, self._md5[name], tuple(mirror + name for mirror in self._mirrors)) for name in names]
        pixels, tags = locate(wanted, self._inside, folder, also=lambda name: [name.removesuffix(".gz")])
        images, labels = read_idx(pixels, 3), read_idx(tags, 1)
        if len(images) != len(labels):
            raise ValueError(f"{pixels} has {len(images)} images and {tags} has {len(labels)} labels")
        if len(labels) and labels.max() >= len(self._classes):
            raise ValueError(f"{tags} has the label {labels.max()}; {len(self._classes) - 1} is the highest")
        return InMemory(type(self).__name__, images[:, None], labels.to(torch.int64), self._classes)


@final
@dataclass(frozen=True)
class MNIST(_Idx):
    """Handwritten digits: 60,000 + 10,000 images of 1x28x28.

    Looked for in a data folder's mnist/, MNIST/raw/ (torchvision's), MNIST/ and in the folder itself, gzipped or plain.
    Reference: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
    """

    _inside = ("mnist", "MNIST/raw", "MNIST", ".")
    _mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    _md5 = {  # noqa: RUF012 (a ClassVar of the base)
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }
    _classes = tuple("0123456789")


@final
@dataclass(frozen=True)
class FashionMNIST(_Idx):
    """Pictures of clothes in MNIST's shape: 60,000 + 10,000 images of 1x28x28.

    Looked for in fashion-mnist/, FashionMNIST/raw/ (torchvision's) or FashionMNIST/, never in the data folder itself:
    its files have the same names as MNIST's.
    Reference: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms", 2017.
    """

    _inside = ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST")
    _mirrors = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
    _md5 = {  # noqa: RUF012
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
    _classes = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@final
@dataclass(frozen=True)
class KMNIST(_Idx):
    """Cursive Japanese characters in MNIST's shape: 60,000 + 10,000 images of 1x28x28.

    Looked for in kmnist/, KMNIST/raw/ (torchvision's) or KMNIST/, never in the data folder itself: its files have the
    same names as MNIST's.
    Reference: Clanuwat et al., "Deep learning for classical Japanese literature", 2018.
    """

    _inside = ("kmnist", "KMNIST/raw", "KMNIST")
    _mirrors = ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",)
    _md5 = {  # noqa: RUF012
        "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
    }
    _classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

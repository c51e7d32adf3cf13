"""CIFAR-10 and CIFAR-100, from the official binary archives."""

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch

from steelman.data.arrays import read_npz
from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import Bounded, Remote, exactly, find, locate, opened
from steelman.data.memory import InMemory
from steelman.files import SMALL, decoding

_PIXELS = 3 * 32 * 32
_COUNTS = {"train": 50_000, "test": 10_000}
_NAMES = 2**16
"""A file of class names is shorter."""


@dataclass(frozen=True)
class _InCifarFiles(Source):
    """A record is some bytes of labels, of which the last counts, and an image."""

    leave_out: str | None = None

    archive: ClassVar[str]
    md5: ClassVar[str]
    unpacked: ClassVar[str]
    inside: ClassVar[tuple[str, ...]]
    files: ClassVar[dict[str, tuple[str, ...]]]
    names: ClassVar[str]
    labels: ClassVar[int]
    """Bytes of a record."""
    classes: ClassVar[int]

    def load(self, split: Split, folder: Path | None = None) -> InMemory:
        check_split(split)
        url = f"https://www.cs.toronto.edu/~kriz/{self.archive}"
        (home,) = locate([Remote(self.archive, self.md5, (url,), also=(self.unpacked,))], self.inside, folder)
        files, width = self.files[split], self.labels + _PIXELS
        contents = self._contents(home, dict.fromkeys(files, _COUNTS[split] // len(files) * width))
        for file in files:
            labels = np.frombuffer(contents[file], np.uint8).reshape(-1, width)[:, self.labels - 1]
            if labels.max() >= self.classes:
                raise ValueError(f"{home / file} has the label {labels.max()}; {self.classes - 1} is the highest")
        records = torch.cat([torch.frombuffer(contents[file], dtype=torch.uint8) for file in files]).reshape(-1, width)
        with decoding(home / self.names, "a text of names"):
            names = tuple(contents[self.names].decode().split())
        if len(names) != self.classes:
            raise ValueError(f"{home / self.names} names {len(names)} classes instead of {self.classes}")
        images = records[:, self.labels :].reshape(-1, 3, 32, 32).contiguous()
        dataset = InMemory(type(self).__name__, images, records[:, self.labels - 1].to(torch.int64), names)
        return dataset if self.leave_out is None else _without(dataset, find(self.leave_out, folder), split)

    def _contents(self, home: Path, sizes: dict[str, int]) -> dict[str, bytearray]:
        """The files of these sizes, and that of the class names, of a folder or of its archive, which is not written to
        disk."""
        wanted = [*sizes, self.names]
        if home.is_dir():
            missing = [file for file in wanted if not (home / file).exists()]
            if missing:
                raise FileNotFoundError(f"{home} lacks {', '.join(missing)}; unpack the archive again")
            contents = {}
            for file in wanted:
                with decoding(home / file, "a file of this data set"), opened(home / file) as stream:
                    length = (home / file).stat().st_size
                    contents[file] = exactly(stream, sizes.get(file, min(length, _NAMES)), length)
            return contents
        with decoding(home, "the official archive"):
            contents = self._archived(home, sizes)
        missing = [file for file in wanted if file not in contents]
        if missing:
            raise ValueError(f"{home} is not the official archive: it lacks {', '.join(missing)}")
        return contents

    def _archived(self, home: Path, sizes: dict[str, int]) -> dict[str, bytearray]:
        """Read from one end of the archive to the other, so that its checksum is checked."""
        contents: dict[str, bytearray] = {}
        with opened(home) as stream:
            most = max(SMALL, 2 * sum(_COUNTS.values()) * _PIXELS)
            bounded = Bounded(stream, most)
            with tarfile.open(fileobj=bounded, mode="r|") as archive:  # pyright: ignore[reportArgumentType,reportCallIssue]
                for member in archive:
                    file = Path(member.name)
                    if member.size > most:
                        raise ValueError(f"{file.name} claims to have {member.size:,} bytes")
                    wanted = member.isfile() and file.parent.name == self.unpacked
                    if not wanted or file.name not in (*sizes, self.names):
                        continue
                    size = sizes.get(file.name, min(member.size, _NAMES))
                    reader = archive.extractfile(member)
                    if member.size != size or reader is None:
                        raise ValueError(f"{file.name} has {member.size:,} bytes instead of {size:,}")
                    contents[file.name] = bytearray(reader.read())
            while bounded.read(2**20):
                pass
        return contents


@final
@dataclass(frozen=True)
class CIFAR10(_InCifarFiles):
    """Small photographs of ten kinds of objects: 50,000 + 10,000 images of 3x32x32.

    leave_out  an .npz file with integer arrays `train` and `test`: places of images to leave out (default: none)

    Searched as cifar-10-batches-bin/ or cifar-10-binary.tar.gz in a data folder, or in its cifar10/ or CIFAR10/.
    Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    archive = "cifar-10-binary.tar.gz"
    md5 = "c32a1d4ab5d03f1284b67883e8d87530"
    unpacked = "cifar-10-batches-bin"
    inside = ("cifar10", "CIFAR10", ".")
    files: ClassVar = {
        "train": tuple(f"data_batch_{batch}.bin" for batch in range(1, 6)),
        "test": ("test_batch.bin",),
    }
    names = "batches.meta.txt"
    labels = 1
    classes = 10


@final
@dataclass(frozen=True)
class CIFAR100(_InCifarFiles):
    """Small photographs of a hundred kinds of objects (the fine labels): 50,000 + 10,000 images of 3x32x32.

    leave_out  an .npz file with integer arrays `train` and `test`: places of images to leave out (default: none)

    Searched as cifar-100-binary/ or cifar-100-binary.tar.gz in a data folder, or in its cifar100/ or CIFAR100/.
    Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    archive = "cifar-100-binary.tar.gz"
    md5 = "03b5dce01913d631647c71ecec9e9cb8"
    unpacked = "cifar-100-binary"
    inside = ("cifar100", "CIFAR100", ".")
    files: ClassVar = {"train": ("train.bin",), "test": ("test.bin",)}
    names = "fine_label_names.txt"
    labels = 2
    classes = 100


def _without(dataset: InMemory, file: Path, split: Split) -> InMemory:
    (places,) = read_npz(file, split)
    whole = np.issubdtype(places.dtype, np.integer) or places.size == 0
    if places.ndim != 1 or not whole or not np.isin(places, np.arange(len(dataset))).all():
        raise ValueError(f"{file}: {split} must be a list of places of images, 0 .. {len(dataset) - 1}")
    keep = torch.ones(len(dataset), dtype=torch.bool)
    keep[torch.from_numpy(places.astype(np.int64))] = False
    return dataset.subset(torch.where(keep)[0])

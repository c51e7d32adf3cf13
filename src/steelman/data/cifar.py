"""CIFAR-10 and CIFAR-100, from the official binary archives."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from steelman.data.arrays import read_npz
from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import Remote, find, locate, unpacked
from steelman.data.memory import InMemory

_PIXELS = 3 * 32 * 32
_COUNTS = {"train": 50_000, "test": 10_000}


@dataclass(frozen=True)
class _Family:
    """What tells CIFAR-10 and CIFAR-100 apart: a record is `labels` bytes, of which the last counts, and an image."""

    name: str
    archive: str
    md5: str
    unpacked: str
    inside: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    labels: int
    classes: int

    def read(self, split: Split, folder: Path | None, leave_out: str | None) -> InMemory:
        check_split(split)
        url = f"https://www.cs.toronto.edu/~kriz/{self.archive}"
        (home,) = locate([Remote(self.archive, self.md5, (url,), also=(self.unpacked,))], self.inside, folder)
        files = self.train if split == "train" else self.test
        each = _COUNTS[split] // len(files)
        contents = _contents(home, self.unpacked, [*files, self.names])
        width = self.labels + _PIXELS
        for file in files:
            if len(contents[file]) != each * width:
                raise ValueError(
                    f"{home / file} is truncated or corrupt: {each} records of {width} bytes were expected, "
                    f"{len(contents[file])} bytes are there"
                )
            labels = np.frombuffer(contents[file], np.uint8).reshape(-1, width)[:, self.labels - 1]
            if labels.max() >= self.classes:
                raise ValueError(f"{home / file} has the label {labels.max()}; {self.classes - 1} is the highest")
        records = torch.frombuffer(bytearray(b"".join(contents[file] for file in files)), dtype=torch.uint8)
        records = records.reshape(-1, width)
        names = tuple(contents[self.names].decode().split())
        if len(names) != self.classes:
            raise ValueError(f"{home / self.names} names {len(names)} classes instead of {self.classes}")
        images = records[:, self.labels :].reshape(-1, 3, 32, 32).contiguous()
        dataset = InMemory(self.name, images, records[:, self.labels - 1].to(torch.int64), names)
        return dataset if leave_out is None else _without(dataset, find(leave_out, folder), split)


@final
@dataclass(frozen=True)
class CIFAR10(Source):
    """Small photographs of ten things: 50,000 + 10,000 images of 3x32x32.

    leave_out  an .npz file with integer arrays `train` and `test`: places of images to leave out (default: none)

    Looked for as cifar-10-batches-bin/ or cifar-10-binary.tar.gz in a data folder, or in its cifar10/ or CIFAR10/.
    Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    leave_out: str | None = None

    def load(self, split: Split, folder: Path | None = None) -> InMemory:
        return _CIFAR10.read(split, folder, self.leave_out)


@final
@dataclass(frozen=True)
class CIFAR100(Source):
    """Small photographs of a hundred things (the fine labels): 50,000 + 10,000 images of 3x32x32.

    leave_out  an .npz file with integer arrays `train` and `test`: places of images to leave out (default: none)

    Looked for as cifar-100-binary/ or cifar-100-binary.tar.gz in a data folder, or in its cifar100/ or CIFAR100/.
    Reference: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    leave_out: str | None = None

    def load(self, split: Split, folder: Path | None = None) -> InMemory:
        return _CIFAR100.read(split, folder, self.leave_out)


_CIFAR10 = _Family(
    name="CIFAR10",
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    unpacked="cifar-10-batches-bin",
    inside=("cifar10", "CIFAR10", "."),
    train=tuple(f"data_batch_{batch}.bin" for batch in range(1, 6)),
    test=("test_batch.bin",),
    names="batches.meta.txt",
    labels=1,
    classes=10,
)
_CIFAR100 = _Family(
    name="CIFAR100",
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    unpacked="cifar-100-binary",
    inside=("cifar100", "CIFAR100", "."),
    train=("train.bin",),
    test=("test.bin",),
    names="fine_label_names.txt",
    labels=2,
    classes=100,
)


def _contents(home: Path, folder: str, files: list[str]) -> dict[str, bytes]:
    """The named files of a folder, or of the archive of that folder, which is not written to disk."""
    if home.is_dir():
        missing = [file for file in files if not (home / file).exists()]
        if missing:
            raise FileNotFoundError(f"{home} lacks {', '.join(missing)}; unpack the archive again")
        return {file: (home / file).read_bytes() for file in files}
    contents = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(unpacked(home)), mode="r:") as archive:
            for member in archive:
                if member.isfile() and Path(member.name).parent.name == folder:
                    reader = archive.extractfile(member)
                    assert reader is not None
                    if Path(member.name).name in files:
                        contents[Path(member.name).name] = reader.read()
    except tarfile.TarError as error:
        raise ValueError(f"{home} is truncated or corrupt ({error}); fetch it again") from error
    missing = [file for file in files if file not in contents]
    if missing:
        raise ValueError(f"{home} is not the official archive: it lacks {', '.join(missing)}")
    return contents


def _without(dataset: InMemory, file: Path, split: Split) -> InMemory:
    (places,) = read_npz(file, split)
    if places.ndim != 1 or not np.isin(places, np.arange(len(dataset))).all():
        raise ValueError(f"{file}: {split} must be a list of places of images, 0 .. {len(dataset) - 1}")
    keep = torch.ones(len(dataset), dtype=torch.bool)
    keep[torch.from_numpy(places.astype(np.int64))] = False
    return dataset.subset(torch.where(keep)[0])

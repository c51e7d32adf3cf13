"""Pictures in tar files, as WebDataset has them: for data sets that do not fit into memory."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import find
from steelman.data.memory import numbered
from steelman.data.pictures import SUFFIXES, Pictures, part_of
from steelman.data.stream import LABELS, Streamed
from steelman.files import decoding, parse_json, reason_of
from steelman.ranges import Count, Natural

_SMALL = 4096
"""Bytes that the file of a label has at most."""


@final
@dataclass(frozen=True)
class Shards(Source):
    """Tar files of WebDataset's form: for each image the members KEY.jpg (or .png and others) and KEY.cls.

    path     a folder with train*.tar and test*.tar (or val*), or with such files in train/ and test/. Absolute, or
             relative to the working directory or a data folder
    classes  their names; default: the lines of classes.txt in that folder, else 0 .. highest label of both splits
    size     (height, width) to which each picture is scaled and, with another ratio of its sides, cropped evenly;
             default: no scaling, and then all must be of one size
    grey     read one channel instead of red, green and blue; default False
    workers  processes that read, default 0: this one

    A label is a whole number in KEY.cls or KEY.txt, or the entry "label" or "cls" of KEY.json. The files are neither
    unpacked nor loaded: when the data set is loaded, the place of each image is noted (32 bytes in memory), and from
    there it is read whenever a batch needs it. So images can be drawn in any order, and a training is resumed bit for
    bit, which a pass through a stream cannot do. Files must not be compressed (.tar.gz), and lie on this machine.
    """

    path: str
    classes: tuple[str, ...] = ()
    size: tuple[Count, Count] | None = None
    grey: bool = False
    workers: Natural = 0

    def load(self, split: Split, folder: Path | None = None) -> Streamed:
        check_split(split)
        root = find(self.path, folder)
        parts = _parts(root)
        index = _Index.of(part_of(parts, split, root))
        classes, names = self.classes, root / "classes.txt"
        if not classes and names.is_file():
            with decoding(names, "a list of names, one in each line"):
                classes = tuple(names.read_text(encoding="utf-8").split("\n"))
            classes = tuple(each.strip() for each in classes if each.strip())
        if not classes:
            other = _Index.of(part_of(parts, "test" if split == "train" else "train", root))
            classes = numbered(str(root), int(max(index.labels.max(), other.labels.max())))
        items = Pictures(index.read, index.labels, self.size, self.grey, index.where)
        shape = tuple(items[0][0].shape)
        return Streamed(root.name, items, shape, classes, labels=index.labels, workers=self.workers)


def shard_files(root: Path) -> list[Path]:
    """Tar files in a folder and in the folders there."""
    return sorted([*root.glob("*.tar"), *root.glob("*/*.tar")])


def _parts(root: Path) -> dict[str, list[Path]]:
    """Files by their folder below `root`, else by the word before "-", "." or "_" in their names."""
    parts: dict[str, list[Path]] = {}
    for file in shard_files(root):
        word = file.name.replace("_", "-").replace(".", "-").partition("-")[0]
        parts.setdefault(word if file.parent == root else file.parent.name, []).append(file)
    return parts


@dataclass(frozen=True)
class _Index:
    """Where each image lies: the number of its file, and the first byte and the length there."""

    files: Sequence[Path]
    places: np.ndarray
    labels: torch.Tensor

    @staticmethod
    def of(files: Sequence[Path]) -> "_Index":
        found = [
            np.array([(number, *entry) for entry in _entries(file)], np.int64) for number, file in enumerate(files)
        ]
        numbers = np.concatenate([each.reshape(-1, 4) for each in found])
        if not len(numbers):
            raise ValueError(f"there are no images in {files[0]} and the others")
        return _Index(files, numbers[:, :3], torch.from_numpy(numbers[:, 3].copy()))

    def read(self, place: int) -> bytes:
        number, start, length = self.places[place].tolist()
        with self.files[number].open("rb") as file:
            file.seek(start)
            return file.read(length)

    def where(self, place: int) -> str:
        number, start, _ = self.places[place].tolist()
        return f"{self.files[number]}: the image at byte {start:,}"


def _entries(file: Path) -> Iterator[tuple[int, int, int]]:
    """(first byte, length, label) of each image in a tar file, in its order."""
    size, key, image, label = file.stat().st_size, "", None, None
    with file.open("rb") as raw:
        for name, start, length in [*_members(file), ("", 0, 0)]:
            stem, ending = _split(name)
            if stem != key:
                if (image is None) != (label is None):
                    raise ValueError(
                        f"{file}: {key} has no {'image' if image is None else 'label'}: KEY.jpg and KEY.cls"
                    )
                if image is not None and label is not None:
                    yield *image, label
                key, image, label = stem, None, None
            if start + length > size:
                raise ValueError(f"{file} is truncated: {name} should end at byte {start + length:,} of {size:,}")
            if f".{ending.rpartition('.')[2]}" in SUFFIXES:
                image = (start, length)
            elif ending in ("cls", "txt", "json") and (label is None or ending != "txt"):
                raw.seek(start)
                label = _label(raw.read(min(length, _SMALL)), ending, f"{file}: {name}")


def _members(file: Path) -> list[tuple[str, int, int]]:
    with decoding(file, "a tar file without compression"), tarfile.open(file, "r:") as archive:
        found = []
        for member in archive:
            if member.isreg():
                found.append((member.name, member.offset_data, member.size))
            vars(archive)["members"] = []  # it would keep them all
        return found


def _split(name: str) -> tuple[str, str]:
    """A key and what follows its first dot, as WebDataset splits names."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _label(raw: bytes, ending: str, where: str) -> int:
    try:
        if ending != "json":
            return int(raw.decode("ascii"))
        entries = parse_json(raw)
        return int(next(entries[name] for name in LABELS if name in entries))
    except (ValueError, TypeError, StopIteration) as error:
        raise ValueError(f"{where} has no whole number as a label: {reason_of(error)}") from error

"""Pictures in Parquet files, as on Hugging Face's hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from steelman.data.dataset import Source, Split, check_split
from steelman.data.files import find
from steelman.data.memory import numbered
from steelman.data.pictures import Pictures, part_of
from steelman.data.stream import IMAGES, LABELS, Streamed
from steelman.extras import require
from steelman.files import decoding, parse_json, refuse_bomb
from steelman.ranges import Count, Natural


@final
@dataclass(frozen=True)
class Parquet(Source):
    """Parquet files with a column of encoded pictures and one of labels.

    path     a file of test images; or a folder, perhaps with a folder data/, of files train*.parquet and test*.parquet
             (or val*). Absolute, or relative to the working directory or a data folder
    image    the column of pictures, as bytes or as a struct with "bytes"; default: the first of a usual name
    label    the column of labels, integers or words; default: the first of a usual name
    size     (height, width) to which each picture is scaled and, with another ratio of its sides, cropped evenly;
             default: no scaling, and then all must be of one size
    grey     read one channel instead of red, green and blue; default False
    workers  processes that read, default 0: this one

    Classes are the names in the files' own description (of Hugging Face's hub), else the words of both splits, sorted,
    else 0 .. highest label of both. The encoded pictures are held in memory: for more than fits, use `Shards` or
    `HuggingFace`. Pictures are decoded by the rules of `ImageFolder`.
    """

    path: str
    image: str = ""
    label: str = ""
    size: tuple[Count, Count] | None = None
    grey: bool = False
    workers: Natural = 0

    def load(self, split: Split, folder: Path | None = None) -> Streamed:
        check_split(split)
        require(f"Parquet({self.path!r})", "pyarrow")
        root = find(self.path, folder)
        parts = {"test": [root]} if root.is_file() else _parts(root)
        files = part_of(parts, split, root)
        schema = _schema(files[0])
        image, label = _column(self.image, schema, IMAGES, root), _column(self.label, schema, LABELS, root)
        pictures, given = _read(files, image), _labels(files, label)
        classes = _names(schema, label)
        if not classes:
            every = [given, *(_labels(each, label) for each in parts.values() if each is not files)]
            if any(each.dtype.kind == "U" for each in every):
                classes = tuple(sorted({str(word) for each in every for word in each}))
            else:
                classes = numbered(str(root), max(int(each.max(initial=0)) for each in every))
        if given.dtype.kind == "U":
            given = np.array([classes.index(str(word)) for word in given])
        if given.dtype.kind not in "iu" or not len(given):
            raise ValueError(f"{root}: the column {label!r} must hold integers or words; it holds {given.dtype}")
        labels = torch.from_numpy(given.astype(np.int64))
        cells = _Cells(pictures, root)
        items = Pictures(cells, labels, self.size, self.grey, cells.where)
        shape = tuple(items[0][0].shape)
        return Streamed(root.name, items, shape, classes, labels=labels, workers=self.workers)


def parquet_files(root: Path) -> list[Path]:
    """Parquet files in a folder and in its folder data/."""
    return sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")])


def _parts(root: Path) -> dict[str, list[Path]]:
    """Files by the word before "-", "." or "_" in their names."""
    parts: dict[str, list[Path]] = {}
    for file in parquet_files(root):
        name = file.name.replace("_", "-").replace(".", "-").partition("-")[0]
        parts.setdefault(name, []).append(file)
    return parts


def _schema(file: Path) -> Any:
    from pyarrow import parquet

    with decoding(file, "a Parquet file"):
        return parquet.read_schema(file)


def _column(named: str, schema: Any, usual: tuple[str, ...], where: Path) -> str:
    found = named or next((each for each in usual if each in schema.names), "")
    if found not in schema.names:
        what = "image" if usual is IMAGES else "label"
        raise ValueError(
            f"{where} has no column {found or what!r} among {', '.join(schema.names)}: name it by {what} = ..."
        )
    return found


def _read(files: Sequence[Path], column: str) -> Any:
    """A column of several files, one after the other; its size is checked before it is read."""
    import pyarrow
    from pyarrow import parquet

    chunks = []
    for file in files:
        with decoding(file, "a Parquet file"):
            about = parquet.read_metadata(file)
            refuse_bomb(
                sum(about.row_group(place).total_byte_size for place in range(about.num_row_groups)),
                file.stat().st_size,
            )
            chunks += parquet.read_table(file, columns=[column])[column].chunks
    return pyarrow.chunked_array(chunks)


def _labels(files: Sequence[Path], column: str) -> np.ndarray:
    values = _read(files, column).to_pylist()
    if any(value is None for value in values):
        raise ValueError(f"{files[0].parent}: the column {column!r} has images without a label")
    return np.array(values)


def _names(schema: Any, label: str) -> tuple[str, ...]:
    """Names of classes in the description that Hugging Face's `datasets` writes into a file."""
    raw = (schema.metadata or {}).get(b"huggingface")
    found = parse_json(raw) if raw else {}
    for key in ("info", "features", label, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    return tuple(map(str, found)) if isinstance(found, list) else ()


@dataclass(frozen=True)
class _Cells:
    """The cells of a column; a class, so that it can be sent to another process."""

    column: Any
    root: Path

    def __call__(self, place: int) -> object:
        return self.column[place].as_py()

    def where(self, place: int) -> str:
        return f"{self.root}: image {place}"

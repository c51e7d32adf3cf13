"""Arrays of numbers in files of MATLAB 5 to 7 (scipy's reader can crash where such a file is damaged)."""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from steelman.files import RATIO, SMALL, decoding, refuse_bomb

_MATRIX, _COMPRESSED, _COMPLEX = 14, 15, 0x0800
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of what is stored, by their number."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Types of arrays of numbers; the stored type may be smaller. Others are cells, structures, texts and objects."""


def read_mat(file: Path, *names: str) -> list[np.ndarray]:
    """Arrays of a file, by name.

    Raises:
        ValueError: not such a file, damaged, an array is missing or is not of real numbers.
    """
    arrays: dict[str, np.ndarray] = {}
    with decoding(file, f"a file of MATLAB 5 to 7 with the arrays {' and '.join(names)}"):
        for matrix, order in _matrices(file):
            name, array = _array(matrix, order, names)
            if array is not None:
                arrays.setdefault(name, array)
        if missing := [name for name in names if name not in arrays]:
            raise ValueError(f"it has no {missing[0]}")
    return [arrays[name] for name in names]


def _matrices(file: Path) -> Iterator[tuple[memoryview, str]]:
    """The content of every matrix, and the order of its bytes, "<" or ">"."""
    stored = file.stat().st_size
    with file.open("rb") as stream:
        header = stream.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:])
        if order is None or _number(header[124:126], order) != 0x0100:
            raise ValueError("its header is of another kind; save it with -v7")
        while tag := stream.read(8):
            kind, length = _number(tag[:4], order), _number(tag[4:], order)
            content = stream.read(min(length, stored))
            if len(tag) < 8 or len(content) < length:
                raise ValueError("it ends too soon")
            if kind == _COMPRESSED:
                kind, content = _first(memoryview(_inflated(content)), order)[:2]
            if kind == _MATRIX:
                yield memoryview(content), order


def _inflated(content: bytes) -> bytes:
    most, inflate = max(SMALL, RATIO * len(content)), zlib.decompressobj()
    inflated = inflate.decompress(content, most)
    if inflate.unconsumed_tail or (not inflate.eof and len(inflated) == most):
        refuse_bomb(most + 1, len(content))
    if not inflate.eof:
        raise ValueError("a compressed array ends too soon")
    return inflated


def _array(matrix: memoryview, order: str, names: tuple[str, ...]) -> tuple[str, np.ndarray | None]:
    """Name and numbers of a matrix; no numbers where its name is not among `names`."""
    _, flags, rest = _first(matrix, order)
    _, shape, rest = _first(rest, order)
    _, title, rest = _first(rest, order)
    name = bytes(title).decode("ascii")
    if name not in names:
        return name, None
    dimensions = np.frombuffer(shape, f"{order}i4")
    flag = _number(flags[:4], order)
    if flag & 0xFF not in _CLASSES or flag & _COMPLEX:
        raise ValueError(f"{name} does not hold real numbers (class {flag & 0xFF})")
    kind, values, _ = _first(rest, order)
    stored, wanted = np.dtype(f"{order}{_STORED[kind]}"), np.dtype(_CLASSES[flag & 0xFF])
    if min(dimensions, default=0) < 0 or math.prod(map(int, dimensions)) * stored.itemsize != len(values):
        raise ValueError(f"{name} holds {len(values):,} bytes, and should be of shape {tuple(map(int, dimensions))}")
    if not np.can_cast(stored, wanted, "safe"):
        raise ValueError(f"{name} is of type {wanted} and holds {stored}")
    return name, np.frombuffer(values, stored).astype(wanted).reshape(dimensions, order="F")


def _first(content: memoryview, order: str) -> tuple[int, memoryview, memoryview]:
    """The first of several elements: its type, its content, and the others; small ones are within their tag."""
    if len(content) < 8:
        raise ValueError("an array ends too soon")
    kind, length = _number(content[:4], order), _number(content[4:8], order)
    begin, end = (4, 8) if kind >> 16 else (8, 8 + length + -length % 8)
    length, kind = (kind >> 16, kind & 0xFFFF) if kind >> 16 else (length, kind)
    if length > len(content) - begin:
        raise ValueError("an array ends too soon")
    return kind, content[begin : begin + length], content[end:]


def _number(content: bytes | memoryview, order: str) -> int:
    return int.from_bytes(content, "little" if order == "<" else "big")

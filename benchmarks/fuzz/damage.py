"""Damaged files, one after the other, and what their readers do."""

import random
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.fuzz.mutations import mutated
from benchmarks.fuzz.readers import READERS, Reader
from torch import Tensor

SECONDS = 10.0
"""No damaged file may take longer; it takes milliseconds, but other processes may be at work."""

FAMILY = (ValueError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, OSError)


@dataclass
class Found:
    """What became of damaged files.

    refused, same, other  how many were refused, read as the value that was written, or as another right one
    faults                what no reader may do, one line each
    slowest               seconds of the slowest
    """

    refused: int = 0
    same: int = 0
    other: int = 0
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0


def fuzz(names: Sequence[str], count: int, seed: int, say: Callable[[str], None] = lambda text: None) -> Found:
    """So many damaged files, shared out over readers; the same seed makes the same files."""
    found, whole = Found(), {}
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            (folder := Path(root) / name.replace(" ", "-")).mkdir()
            path = READERS[name].write(folder)
            whole[name] = (path, path.read_bytes(), plain(READERS[name].read(path)))
        others = [raw for _, raw, _ in whole.values()]
        for place, name in enumerate(names):
            before, start = (found.refused, found.same, found.other), time.perf_counter()
            path, raw, value = whole[name]
            for number in range(place, count, len(names)):
                changed = mutated(raw, others, random.Random(f"{seed} {name} {number}"))
                path.write_bytes(changed)
                _attempt(READERS[name], name, number, path, changed == raw, value, found)
            path.write_bytes(raw)
            now = (found.refused, found.same, found.other)
            told = [f"{now[way] - before[way]} {what}" for way, what in enumerate(("refused", "same", "other"))]
            say(f"{name}: {', '.join(told)}; {time.perf_counter() - start:.1f} s")
    return found


def _attempt(reader: Reader, name: str, number: int, path: Path, unchanged: bool, value: Any, found: Found) -> None:
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            back = plain(reader.read(path))
    except Exception as error:
        found.refused += 1
        said = str(error)
        if type(error) not in FAMILY or "\n" in said or path.name not in said:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            found.faults.append(f"{name} {number}: {type(error).__name__} at {where}: {said[:300]!r}")
    else:
        equal = back == value
        found.same, found.other = found.same + equal, found.other + (not equal)
        if not equal and (reader.sealed or unchanged):
            found.faults.append(f"{name} {number}: another value was let through")
    seconds = time.perf_counter() - start
    found.slowest = max(found.slowest, seconds)
    if seconds > SECONDS:
        found.faults.append(f"{name} {number}: it took {seconds:.1f} s")


def plain(value: Any) -> Any:
    """A value that can be compared: tensors and arrays as type, shape and bytes; numbers as their texts, for NaN."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous().numpy()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return repr(value)

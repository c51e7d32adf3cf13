"""Whether two folders hold the same, but for the clock."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.kills.watch import TEMPORARY

CLOCK = re.compile(r"(?i)(\b|_)(seconds|date|time)(\b|_)")
"""Names of values that are of the clock."""
DIGEST = re.compile(r"(header|metadata) [^/]*/(digest|file|records/\d+/id)")
"""Digests into which the clock's values go: of a checkpoint's bytes, of a table's, and of a record with its date."""
LOOKS = (".png", ".svg", ".html")
"""Pictures and pages, which show the clock's values too: they have to be there, and not empty."""


def differences(expected: Path, found: Path) -> list[str]:
    """What is not the same, each as file and name."""
    ours, theirs = _files(found), _files(expected)
    told = [f"{name}: {'left behind' if TEMPORARY.search(Path(name).name) else 'too much'}" for name in ours - theirs]
    told += [f"{name}: missing" for name in theirs - ours]
    for name in sorted(ours & theirs):
        try:
            one, other = _read(found / name), _read(expected / name)
        except Exception as error:  # whatever a broken file brings about
            told.append(f"{name}: cannot be read: {type(error).__name__}: {error}")
            continue
        told += [f"{name}: {path}" for path in sorted({*one, *other}) if one.get(path) != other.get(path)]
    return sorted(told)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def _read(path: Path) -> dict[str, Any]:
    """All of a file's values under their names, but those of the clock."""
    if path.suffix in LOOKS or path.name == "report.md":
        return {"length": path.stat().st_size > 0}
    reader = {".safetensors": _tensors, ".parquet": _table, ".json": _json, ".jsonl": _lines, ".csv": _csv}
    values = reader[path.suffix](path) if path.suffix in reader else iter([("bytes", path.read_bytes())])
    return {name: value for name, value in values if not (CLOCK.search(name) or DIGEST.fullmatch(name))}


def _tensors(path: Path) -> Iterator[tuple[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            value = file.get_tensor(name)
            yield name, (value.dtype, value.shape, value.tobytes())
        for name, text in (file.metadata() or {}).items():
            yield from _leaves(text, f"header {name}")


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    said = {key.decode(): value.decode(errors="replace") for key, value in (table.schema.metadata or {}).items()}
    about = {name: value for key, text in said.items() for name, value in _leaves(text, f"metadata {key}")}
    yield from about.items()
    columns = {name: list(map(repr, table[name].to_pylist())) for name in table.column_names}  # NaN is not NaN
    if "record" in columns:  # by name, as its number hangs on the date
        ids = {name.removesuffix("id"): value for name, value in about.items() if name.endswith("/id")}
        names = {value: about[f"{place}name"] for place, value in ids.items()}
        columns["record"] = [names.get(value, value) for value in columns["record"]]
    keys = [columns[name] for name in ("target", "space", "attack", "record", "image") if name in columns]
    order = sorted(range(len(table)), key=lambda row: [key[row] for key in keys])
    for name, values in columns.items():
        yield name, (str(table.schema.field(name).type), [values[row] for row in order])


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    yield from _leaves(json.loads(path.read_text()), "")


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    yield from _leaves([json.loads(line) for line in path.read_text().splitlines()], "line")


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(csv.DictReader(path.read_text().splitlines())):
        yield from ((f"line {number} {name}", value) for name, value in row.items())


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every number and word in nested values, under the way to it; a text that is JSON is opened."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(json.JSONDecodeError):
            value = json.loads(value)
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from _leaves(item, f"{name}/{key}")
    else:
        yield name, repr(value)

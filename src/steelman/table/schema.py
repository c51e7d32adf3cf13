"""The columns of an evaluation's table: what each holds, and what stands in its place in a table that lacks it.

A new column is one line here, and one in the card of `Evaluation`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from steelman.attacks.core.attack import AttackResult
from steelman.norms import L2, Linf
from steelman.table.records import Record
from steelman.types import Batch, Images, Labels, PerImage

if TYPE_CHECKING:
    import pyarrow

VERSION = 2
"""Of the table; a reader takes older ones (`older.py`), and of newer ones what it knows."""

ROUNDING = 1 + 1e-5
"""Distances are differences of float32 images: one of exactly eps may read so much longer, 1/255 say."""


@dataclass(frozen=True)
class Met:
    """Some images that met one attack.

    x        the images in the space of the evaluation; `batch.x` are their pixels
    pixels   a hash of each image's pixels and label
    clean    what the model predicts of them unattacked
    probed   by probe, what it measured
    """

    record: Record
    batch: Batch
    x: Images
    pixels: np.ndarray
    clean: Labels
    result: AttackResult
    probed: dict[str, PerImage]


class Column(NamedTuple):
    """Its type, where a row's value comes from, and the value in a table that lacks it; None: it cannot be read."""

    kind: str
    of: Callable[[Met], Any]
    missing: Any = None


NAN = float("nan")
COLUMNS = {
    "image": Column("int64", lambda met: met.batch.index),
    "attack": Column("string", lambda met: met.record.name),
    "record": Column("string", lambda met: met.record.id),
    "pixels": Column("int64", lambda met: met.pixels, 0),
    "label": Column("int64", lambda met: met.batch.y),
    "clean_prediction": Column("int64", lambda met: met.clean),
    "prediction": Column("int64", lambda met: met.result.prediction),
    "success": Column("bool", lambda met: met.result.success),
    "l0": Column("float64", lambda met: met.result.l0, NAN),
    "l1": Column("float64", lambda met: met.result.l1, NAN),
    "l2": Column("float64", lambda met: met.result.l2, NAN),
    "linf": Column("float64", lambda met: met.result.linf, NAN),
    "x_l2": Column("float64", lambda met: L2.size(met.x.double()), NAN),
    "x_linf": Column("float64", lambda met: Linf.size(met.x.double()), NAN),
    "loss": Column("float64", lambda met: met.result.loss, NAN),
    "forwards": Column("int64", lambda met: met.result.forwards, 0),
    "gradients": Column("int64", lambda met: met.result.gradients, 0),
    "seconds": Column("float64", lambda met: met.result.seconds / len(met.batch), NAN),
}


def table_of(met: Sequence[Met], probes: Sequence[str] = ()) -> "pyarrow.Table":
    """The rows of images that met attacks; a probe that was not asked of them is NaN."""
    import pyarrow

    values: dict[str, list[np.ndarray]] = {name: [] for name in (*COLUMNS, *probes)}
    for each in met:
        for name, column in COLUMNS.items():
            values[name].append(_array(column.of(each), len(each.batch)))
        for name in probes:
            values[name].append(_array(each.probed.get(name, NAN), len(each.batch)))
    kinds = {name: column.kind for name, column in COLUMNS.items()} | dict.fromkeys(probes, "float64")
    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in kinds.items()])
    return pyarrow.table({name: np.concatenate(each) if each else [] for name, each in values.items()}, schema=schema)


def completed(table: "pyarrow.Table") -> "tuple[pyarrow.Table, list[str]]":
    """A table with all columns, each of its type, and the names of those that it lacked.

    Raises:
        ValueError: it lacks a column that nothing can stand for, or one has another type, or empty cells.
    """
    import pyarrow

    for name in table.column_names:
        if name in COLUMNS:
            column = table[name].cast(pyarrow.type_for_alias(COLUMNS[name].kind))
            if column.null_count:
                raise ValueError(f"the column {name} has empty cells")
            table = table.set_column(table.column_names.index(name), name, column)
    lacking = [name for name in COLUMNS if name not in table.column_names]
    for name in lacking:
        if COLUMNS[name].missing is None:
            raise ValueError(f"not an evaluation table: the column {name} is missing")
        kind = pyarrow.type_for_alias(COLUMNS[name].kind)
        table = table.append_column(name, pyarrow.array([COLUMNS[name].missing] * table.num_rows, kind))
    return table, lacking


def check_records(table: "pyarrow.Table", records: Sequence[Record]) -> None:
    """Raises ValueError where rows name an attack or a record that there is not."""
    for column, there in (("attack", {each.name for each in records}), ("record", {each.id for each in records})):
        if strange := set(table[column].unique().to_pylist()) - there:
            raise ValueError(f"rows are of the {column} {min(strange)!r}, of which there is no record")


def _array(value: Any, count: int) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return value if isinstance(value, np.ndarray) else np.full(count, value)

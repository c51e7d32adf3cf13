"""The columns of an evaluation's table. A new column is one line in `COLUMNS`, and no other edit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from steelman.attacks.core import AttackResult
from steelman.forward import REJECTED
from steelman.norms import L2, Linf
from steelman.table.records import Record
from steelman.types import Batch, Images, Labels, PerImage

if TYPE_CHECKING:
    import pyarrow

VERSION = 2
"""Of the table; a reader takes older ones (`older.py`), and of newer ones what it knows."""

ROUNDING = 1 + 1e-5
"""Distances are differences of float32 images: one of exactly eps, such as 1/255, may be measured so much longer."""


@dataclass(frozen=True)
class AttackedImages:
    """Some images and the result of one attack on them.

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
    """A column's type, its meaning, where its values come from, and the value in a table that lacks the column.

    A table that lacks a column without such a value cannot be read. A function computes the values from the others.
    """

    kind: str
    meaning: str
    of: Callable[[AttackedImages], Any]
    default: Any = None


NAN, INT, FLOAT = float("nan"), "int64", "float64"


def _right(table: "pyarrow.Table") -> np.ndarray:
    """Of one answer."""
    return (table["prediction"].to_numpy() == table["label"].to_numpy()).astype(float)


def _again(table: "pyarrow.Table") -> np.ndarray:
    """There were no further answers."""
    return table["right"].to_numpy()


def _no_margin(table: "pyarrow.Table") -> np.ndarray:
    """Older versions did not write it down; only `audits` reads it, from tables of attacks that they had not."""
    return np.full(table.num_rows, NAN)


def _not_flat(table: "pyarrow.Table") -> np.ndarray:
    """As for the margin."""
    return np.zeros(table.num_rows, int)


COLUMNS = {
    "image": Column(INT, "the image's place in its data set", lambda images: images.batch.index),
    "attack": Column("string", "the attack's name", lambda images: images.record.name),
    "record": Column("string", "the id of the attack's record", lambda images: images.record.id),
    "pixels": Column(INT, "a hash of the image's pixels and label; 0: not known", lambda images: images.pixels, 0),
    "label": Column(INT, "the true class", lambda images: images.batch.y),
    "clean_prediction": Column(INT, "the predicted class without an attack; -1: rejected", lambda images: images.clean),
    "prediction": Column(INT, "the predicted class after it; -1: rejected", lambda images: images.result.prediction),
    "success": Column("bool", "whether the attack reached its goal", lambda images: images.result.success),
    "l0": Column(FLOAT, "size of the perturbation", lambda images: images.result.l0, NAN),
    "l1": Column(FLOAT, "size of the perturbation", lambda images: images.result.l1, NAN),
    "l2": Column(FLOAT, "size of the perturbation", lambda images: images.result.l2, NAN),
    "linf": Column(FLOAT, "size of the perturbation", lambda images: images.result.linf, NAN),
    "x_l2": Column(FLOAT, "size of the unattacked image", lambda images: L2.size(images.x.double()), NAN),
    "x_linf": Column(FLOAT, "size of the unattacked image", lambda images: Linf.size(images.x.double()), NAN),
    "loss": Column(FLOAT, "cross-entropy with the class to leave", lambda images: images.result.loss, NAN),
    "margin": Column(
        FLOAT, "highest other logit less that of the class to leave", lambda images: images.result.margin, _no_margin
    ),
    "right": Column(FLOAT, "share of the first answers that are right", lambda images: images.result.right, _right),
    "again": Column(FLOAT, "share of as many further ones", lambda images: images.result.again, _again),
    "forwards": Column(INT, "forward passes that the image cost", lambda images: images.result.forwards, 0),
    "gradients": Column(INT, "gradient passes that it cost", lambda images: images.result.gradients, 0),
    "flat": Column(INT, "gradient passes that were zero everywhere", lambda images: images.result.flat, _not_flat),
    "seconds": Column(FLOAT, "its share of the time", lambda images: images.result.seconds / len(images.batch), NAN),
}


def table_of(attacked: Sequence[AttackedImages], probes: Sequence[str] = ()) -> "pyarrow.Table":
    """The rows of attacked images; a probe that was not measured on them is NaN."""
    import pyarrow

    columns = COLUMNS | {
        name: Column(FLOAT, "", lambda images, name=name: images.probed.get(name, NAN)) for name in probes
    }
    schema = pyarrow.schema([(name, pyarrow.type_for_alias(column.kind)) for name, column in columns.items()])
    values = {name: [_array(column.of(each), len(each.batch)) for each in attacked] for name, column in columns.items()}
    return pyarrow.table({name: np.concatenate(each) if each else [] for name, each in values.items()}, schema=schema)


def misclassified(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Which predictions are errors after an attack: neither the label nor a rejection."""
    return (prediction != label) & (prediction != REJECTED)


def never_right(wrong: np.ndarray, right: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Which of the images that are wrong, by their most frequent class, are so in every answer that was asked for.

    right, again  the columns; where both are 0 or both are 1, the class alone decides (one answer, or all alike)
    """
    return wrong & ((right == again) & (right % 1 == 0))


def completed(table: "pyarrow.Table") -> "tuple[pyarrow.Table, list[str]]":
    """A table with all columns, each of its type, and the names of those that it lacked.

    Raises:
        ValueError: it lacks a column that has no default, or one has another type, or empty cells.
    """
    import pyarrow

    lacking = []
    for name, column in COLUMNS.items():
        kind = pyarrow.type_for_alias(column.kind)
        if name in table.column_names:
            values = table[name].cast(kind)
            if values.null_count:
                raise ValueError(f"the column {name} has empty cells")
            table = table.set_column(table.column_names.index(name), name, values)
        elif column.default is None:
            raise ValueError(f"not an evaluation table: the column {name} is missing")
        elif callable(column.default):
            table = table.append_column(name, pyarrow.array(column.default(table), kind))
        else:
            lacking.append(name)
            table = table.append_column(name, pyarrow.array([column.default] * table.num_rows, kind))
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

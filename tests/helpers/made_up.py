"""Tables made up by chance, for the tests of measures: rows as mappings, so that a naive loop can read them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow
from torch import Tensor

from steelman.attacks import Attack, CarliniWagner, MinimalFGSM
from steelman.identity import digest
from steelman.norms import Linf, Norm
from steelman.table import Evaluation
from steelman.table.records import CLEAN, Record, record_of
from steelman.table.schema import COLUMNS, completed

ATTACKS = {  # name: (norm, eps, what it leaves)
    "clean": (None, 0.0, "label"),
    "weak": ("Linf", 0.1, "label"),
    "strong": ("Linf", 0.1, "label"),
    "small": ("Linf", 0.05, "label"),
    "nearest": ("L2", math.nan, "label"),
    "away": ("L2", math.nan, "prediction"),
    "grid": ("Linf", math.nan, "prediction"),
}
RUN: dict[str, Attack] = {
    "nearest": CarliniWagner(steps=10),
    "grid": MinimalFGSM(norm=Linf, eps_max=1.5, grid=None),
}

Row = dict[str, Any]
"""Columns of a table; `norm`, `eps` (NaN: none) and `reference` of the attack; and `run`, the attack itself or, of one
that is made up, a text that stands for all of its settings. What is none of these is a probe."""
OF_THE_ATTACK = ("norm", "eps", "reference", "run")


@dataclass(frozen=True)
class Own(Attack):
    """A user's own gradient attack, of which Steelman knows what `Attack` says."""

    eps: float = 0.1
    norm: Norm = Linf
    steps: int = 7

    def search(self, oracle: Any, x: Tensor, goal: Any, draws: Any) -> Tensor:
        return x


def made_up(count: int = 41, seed: int = 0, attacks=tuple(ATTACKS)) -> list[Row]:
    """Rows with wrong images, failures and attacks that break different images, in no order."""
    rng = np.random.default_rng(seed)
    label, clean = rng.integers(3, size=count), rng.integers(3, size=count)
    clean = np.where(rng.random(count) < 0.6, label, clean)
    x_l2 = 1 + rng.random(count)
    rows = []
    for name in attacks:
        norm, eps, reference = ATTACKS[name]
        for image in range(count):
            leave = label[image] if reference == "label" else clean[image]
            broken = name != "clean" and rng.random() < 0.6
            prediction = (leave + 1) % 3 if broken else clean[image]
            size = 0.0 if name == "clean" else rng.random()
            if math.isnan(eps) and reference == "label" and clean[image] != label[image]:
                prediction, size = clean[image], 0.0
            linf = size / 2 if math.isnan(eps) else size * eps
            rows.append(
                {"image": image, "attack": name, "run": RUN.get(name, f"{name}()"), "pixels": 1000 + image}
                | {"reference": reference, "norm": norm, "eps": eps, "label": label[image]}
                | {"clean_prediction": clean[image], "prediction": prediction, "success": bool(prediction != leave)}
                | {
                    "l0": 5.0,
                    "l1": 3 * size,
                    "l2": size,
                    "linf": linf,
                    "x_l2": x_l2[image],
                    "x_linf": 0.5 * x_l2[image],
                }
                | {"loss": 1.0, "forwards": 1, "gradients": 1, "seconds": 0.1}
            )
    rng.shuffle(rows)
    return rows


def table_of(rows: list[Row], space: str = "pixels", records: Iterable[Record] = (), **about: Any) -> Evaluation:
    """The table of rows that all have the same keys; `records` are of attacks that met no image, say."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["attack"], row)
    found = {name: record(row) for name, row in first.items()}
    given = [name for name in (rows[0] if rows else COLUMNS) if name not in OF_THE_ATTACK]
    values = {name: [row[name] for row in rows] for name in given} | {
        "record": [found[row["attack"]].id for row in rows]
    }
    kinds = {name: COLUMNS[name].kind if name in COLUMNS else "float64" for name in values}
    columns = {name: pyarrow.array(each, pyarrow.type_for_alias(kinds[name])) for name, each in values.items()}
    probes = [name for name in given if name not in COLUMNS]
    table = completed(pyarrow.table(columns))[0].select([*COLUMNS, *probes])
    return Evaluation.of(table, [*found.values(), *records], space=space, probes=probes, **about)


def record(row: Row, **more: Any) -> Record:
    """The record of a row's attack; what the row says of norm, radius and reference goes before what that says."""
    name, run = row["attack"], row.get("run", "")
    if name == CLEAN:
        return Record(CLEAN)
    told = {key: row[key] for key in ("norm", "reference") if key in row}
    if "eps" in row:
        told["eps"] = None if math.isnan(row["eps"]) else float(row["eps"])
    if isinstance(run, Attack):
        found = record_of(name, replace(run, reference=row.get("reference", run.reference)))
    else:
        found = Record(
            name, f"made_up:{name}", {"kind": run}, run, core=name, digest=digest((run, tuple(told.items())))
        )
    return replace(found, id="", **told, **more)


def of(rows: list[Row], attack: str) -> list[Row]:
    """One attack's rows in order of the images."""
    return sorted((row for row in rows if row["attack"] == attack), key=lambda row: row["image"])


def right(row: Row) -> bool:
    return bool(row["clean_prediction"] == row["label"] == row["prediction"])


def changed(rows: list[Row], attack: str | None = None, **columns: Any) -> list[Row]:
    """The rows with other values in some columns; each a value, or a function of the row."""
    new = {
        name: value if callable(value) and not isinstance(value, Attack) else (lambda row, value=value: value)
        for name, value in columns.items()
    }
    return [
        row | {name: value(row) for name, value in new.items()} if attack in (None, row["attack"]) else row
        for row in rows
    ]


def cascade(rows: list[Row], order: list[str]) -> list[Row]:
    """What is left of the rows where a natural error is not attacked by what leaves the label, and a bounded attack
    is run only on what nothing before it in `order` has broken within its norm and radius."""
    kept = of(rows, "clean")
    for name in order:
        for row in of(rows, name):
            before = [other for other in kept if other["image"] == row["image"]]
            size = str(row["norm"]).lower()
            broken = not math.isnan(row["eps"]) and any(
                other["prediction"] != other["label"] and other[size] <= row["eps"] * (1 + 1e-5) for other in before
            )
            if row["reference"] == "prediction" or not (broken or row["clean_prediction"] != row["label"]):
                kept.append(row)
    return kept

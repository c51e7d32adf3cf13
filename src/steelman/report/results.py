"""Everything that a report says, as one document for programs; `results.schema.json` describes it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from steelman.measures.curves import attacked_norms, curve
from steelman.measures.transfer import Transfer
from steelman.report.compared import compared
from steelman.report.entry import Entry, comparable
from steelman.report.sections import sign_table
from steelman.report.verdicts import verdict
from steelman.table.table import Evaluation

VERSION = 2
"""Of the schema; raised where a reader of an older document would read a newer one wrongly."""

SCHEMA = Path(__file__).with_name("results.schema.json")
POINTS = 200
"""At most so many points of a curve; the table has them all."""


def results(entries: Sequence[Entry], *, transfer: Sequence[Transfer] = (), on: str = "") -> dict[str, Any]:
    """The models with their measures, attacks, curves, check-up and signs, and what they are beside each other.

    on  the date that is written down, today by default

    A number that is infinite, or none, is None. The schema is `SCHEMA`, a JSON Schema (draft 2020-12).

    Raises:
        ValueError: no entries, or models that cannot be compared.
    """
    entries = comparable(entries)
    found = verdict(entries, transfer)
    models = {entry.name: _model(entry, transfer) for entry in entries}
    return _plain(
        {
            "schema": VERSION,
            "steelman": version("steelman"),
            "date": on or date.today().isoformat(),
            "verdict": {
                "sentence": found.sentence,
                "cautions": found.cautions,
                "attack": found.attack,
                "standing": [{"model": name, **asdict(each)} for name, each in found.standing],
                "against": [{"model": name, "paired": asdict(each)} for name, each in found.against],
                "tried": found.tried,
                "sure": found.sure,
            },
            "models": models,
            "comparisons": [asdict(duel) for duel in compared(entries)],
            "transfer": list(map(_transfer, transfer)),
        }
    )


def results_text(entries: Sequence[Entry], *, transfer: Sequence[Transfer] = (), on: str = "") -> str:
    found = results(entries, transfer=transfer, on=on)
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _model(entry: Entry, transfer: Sequence[Transfer]) -> dict[str, Any]:
    return {
        "images": entry.evaluation.images,
        "info": dict(entry.info),
        "about": {
            "data": entry.evaluation.about.get("data", ""),
            "classes": entry.evaluation.about.get("classes"),
            "sample": entry.evaluation.about.get("sample"),
            "model": entry.evaluation.about.get("model") or {},
            "made": [{**asdict(place), "attacks": names} for place, names in entry.evaluation.made.items()],
        },
        "recipe": entry.recipe or None,
        "measures": {name: asdict(measure) for name, measure in entry.measures.items()},
        "unmeasured": entry.unmeasured,
        "attacks": [_attack(table, name, space) for space, table in entry.spaces.items() for name in table.attacks],
        "curves": [each for space, table in entry.spaces.items() for each in _curves(table, space)],
        "checkup": None if entry.checkup is None else entry.checkup.plain(),
        "training": [dict(line) for line in entry.log],
        "signs": [asdict(sign) for (sign,) in (row["signs"] for row in sign_table([entry], transfer))],
    }


def _attack(table: Evaluation, name: str, space: str) -> dict[str, Any]:
    rows, record = table.only(name), table.record(name)
    return {
        "name": name,
        "space": space,
        "kind": record.kind,
        "settings": record.settings,
        "digest": record.digest,
        "call": record.call,
        "access": record.access,
        "how": record.knowledge,
        "reference": record.reference,
        "norm": record.norm,
        "eps": record.eps,
        "steps": record.steps,
        "asked": record.asked,
        "asked_about": record.images,
        "seed": record.seed,
        "images": len(rows),
        "forwards": _mean(rows["forwards"]),
        "gradients": _mean(rows["gradients"]),
        "seconds": float(rows["seconds"].sum()),
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _curves(table: Evaluation, space: str) -> list[dict[str, Any]]:
    found = []
    for norm in attacked_norms(table):
        line = curve(table, norm)
        which = np.unique(np.linspace(0, len(line.radius) - 1, POINTS).round().astype(int))
        found.append(
            {
                "norm": repr(norm),
                "space": space,
                "radius": line.radius[which].tolist(),
                "accuracy": line.accuracy[which].tolist(),
                "points": [dict(zip(("attack", "eps", "accuracy"), point, strict=True)) for point in line.points],
            }
        )
    return found


def _transfer(found: Transfer) -> dict[str, Any]:
    return {
        "attack": found.attack,
        "sources": list(found.sources),
        "targets": list(found.targets),
        "white": [list(pair) for pair in sorted(found.white)],
        "clean": [asdict(each) for each in found.clean],
        "accuracy": [[asdict(each) for each in row] for row in found.accuracy],
        "worst": [None if each is None else asdict(each) for each in found.worst],
    }


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""A document as JSON, for programs; `results.schema.json` describes it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from steelman.measures.curves import attacked_norms
from steelman.measures.transfer import Transfer
from steelman.report.answers import Answer
from steelman.report.document import AttackRun, Document
from steelman.report.entry import Entry

VERSION = 3
"""Of the schema; raised where a reader of an older document would read a newer one wrongly."""

SCHEMA = Path(__file__).with_name("results.schema.json")
POINTS = 200
"""At most so many points of a curve; the table has them all."""


def results(document: Document) -> dict[str, Any]:
    """The models with their measures, attacks, curves, check-up and signs, and how they compare.

    A number that is infinite, or none, is None. The schema is `SCHEMA`, a JSON Schema (draft 2020-12).
    """
    verdict = document.verdict
    return _plain(
        {
            "schema": VERSION,
            "steelman": version("steelman"),
            "date": document.on,
            "verdict": {
                "answer": verdict.answer,
                "sentence": verdict.sentence,
                "answers": list(map(_answer, verdict.answers)),
                "cautions": verdict.cautions,
                "attack": verdict.attack,
                "ranking": [{"model": name, **asdict(each)} for name, each in verdict.ranking],
                "against": [{"model": name, "paired": asdict(each)} for name, each in verdict.against],
                "tried": verdict.tried,
                "limits": verdict.limits,
            },
            "models": {entry.name: _model(entry, document) for entry in document.entries},
            "comparisons": [asdict(pair) for pair in document.pairs],
            "transfer": list(map(_transfer, document.transfers)),
        }
    )


def results_text(document: Document) -> str:
    return json.dumps(results(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _model(entry: Entry, document: Document) -> dict[str, Any]:
    about = entry.evaluation.about
    return {
        "images": entry.evaluation.images,
        "info": dict(entry.info),
        "about": {
            "data": about.get("data", ""),
            "classes": about.get("classes"),
            "sample": about.get("sample"),
            "model": about.get("model") or {},
            "made": [{**asdict(place), "attacks": names} for place, names in entry.evaluation.made.items()],
        },
        "recipe": entry.recipe or None,
        "measures": {name: asdict(measure) for name, measure in entry.measures.items()},
        "unmeasured": entry.unmeasured,
        "attacks": list(map(_attack, document.attacks[entry.name])),
        "curves": _curves(entry, document),
        "checkup": None if entry.checkup is None else entry.checkup.plain(),
        "training": [dict(line) for line in entry.log],
        "signs": list(map(asdict, document.signs[entry.name])),
        "asked": None if entry.asked is None else dict(zip(("norm", "eps"), entry.asked, strict=True)),
        "explained": entry.explained or None,
    }


def _answer(answer: Answer) -> dict[str, Any]:
    measures = {name: getattr(answer, name) for name in ("robust", "before", "clean")}
    return {
        "model": answer.model,
        "answer": answer.word,
        "sentence": answer.sentence,
        "norm": None if answer.threat is None else answer.threat[0],
        "eps": None if answer.threat is None else answer.threat[1],
        **{name: None if each is None else asdict(each) for name, each in measures.items()},
        **{name: getattr(answer, name) for name in ("doubts", "evidence", "broken_by")},
    }


def _attack(run: AttackRun) -> dict[str, Any]:
    record, costs = run.record, ("images", "not_sampled", "forwards", "gradients", "seconds")
    fields = ("kind", "settings", "digest", "call", "access", "knowledge", "reference", "norm", "eps", "steps", "asked")
    return {
        "name": run.name,
        "space": run.space,
        **{key: getattr(record, key) for key in fields},
        "asked_about": record.images,
        "seed": record.seed,
        **{key: getattr(run, key) for key in costs},
    }


def _curves(entry: Entry, document: Document) -> list[dict[str, Any]]:
    found = []
    for (space, norm), curves in document.curves.items():
        if space in entry.spaces and norm in attacked_norms(entry.spaces[space]):
            line = curves[entry.name]
            which = np.unique(np.linspace(0, len(line.radius) - 1, POINTS).round().astype(int))
            points = [dict(zip(("attack", "eps", "accuracy"), point, strict=True)) for point in line.points]
            steps = {"radius": line.radius[which].tolist(), "accuracy": line.accuracy[which].tolist()}
            found.append({"norm": repr(norm), "space": space, **steps, "points": points})
    return found


def _transfer(transfer: Transfer) -> dict[str, Any]:
    return {
        "attack": transfer.attack,
        "sources": transfer.sources,
        "targets": transfer.targets,
        "white": sorted(transfer.white),
        "clean": [asdict(each) for each in transfer.clean],
        "accuracy": [[asdict(each) for each in row] for row in transfer.accuracy],
        "worst": [None if each is None else asdict(each) for each in transfer.worst],
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

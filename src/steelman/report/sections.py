"""What the sections of the page hold, as plain values for the template."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from steelman.identity import digest
from steelman.measures.accuracies import met, threats
from steelman.measures.transfer import Transfer
from steelman.measures.waterfalls import waterfall
from steelman.norms import NORMS
from steelman.report.entry import Entry
from steelman.report.gallery import amplification, data_uri
from steelman.report.verdicts import listed, signs_of, threat_name
from steelman.table.records import Provenance

PICTURED = 60
"""Gallery images on the page, over all models, so that the file stays small."""
SIDE = 96
"""Pixels to which the sides of larger images are shrunk."""

SOFTWARE = """@software{{steelman,
  author    = {{{{The Steelman authors}}}},
  title     = {{{{Steelman}}}},
  version   = {{{}}},
}}"""


def waterfalls(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """By norm, radius and space: the steps down, and how many images each model loses at them."""
    found: dict[tuple[str, float, str], dict[str, Any]] = {}
    for entry in entries:
        for space, table in entry.spaces.items():
            for norm, eps in threats(table):
                try:
                    found.setdefault((norm, eps, space), {})[entry.name] = waterfall(table, NORMS[norm], eps)
                except ValueError:  # rows are missing of which only a fuller table would tell
                    continue
    result = []
    for (norm, eps, space), models in found.items():
        names = list(dict.fromkeys(name for each in models.values() for name in each.felled))
        steps = ["Wrong unattacked", *names, "Still right"]
        columns = []
        for entry in entries:
            drops = models.get(entry.name)
            if drops is None:
                columns.append([None] * len(steps))
                continue
            left, cells = drops.images, []
            ran = met(entry.spaces[space])
            fell = [drops.felled.get(name, 0 if name in ran else None) for name in names]
            for count in (drops.natural_errors, *fell):
                left -= count or 0
                cells.append(None if count is None else _bar(count, left, drops.images))
            columns.append([*cells, _bar(drops.standing, 0, drops.images)])
        result.append(
            {
                "threat": threat_name(norm, eps) + ("" if space == "pixels" else f" ({space} space)"),
                "rows": [
                    {"name": step, "cells": [column[place] for column in columns], "attack": step in names}
                    for place, step in enumerate(steps)
                ],
            }
        )
    return result


def _bar(count: int, left: int, images: int) -> dict[str, Any]:
    """A drop of `count` images to `left` of them, as shares for a bar."""
    return {
        "count": count,
        "share": f"{100 * count / images:.1f}",
        "from": round(100 * left / images, 2),
        "width": round(100 * count / images, 2),
    }


def missing(entries: Sequence[Entry]) -> list[str]:
    """What the tables cannot tell, and why."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        for name, why in entry.unmeasured.items():
            found.setdefault(f"{name}: {why}", []).append(entry.name)
    return [line if len(names) == len(entries) else f"{listed(names)}: {line}" for line, names in found.items()]


def sign_table(entries: Sequence[Entry], transfer: Sequence[Transfer]) -> list[dict[str, Any]]:
    """The questions, and each model's answer."""
    asked = [signs_of(entry, transfer) for entry in entries]
    rows = zip(*asked, strict=True)
    return [{"question": row[0].question, "signs": row[:1] if len(set(row)) == 1 else row} for row in rows]


def gallery(entries: Sequence[Entry], classes: Sequence[str]) -> dict[str, Any] | None:
    """A card per model and image: as it is, attacked, and the difference."""
    shown = [(entry.name, entry.gallery) for entry in entries if entry.gallery is not None]
    shown = [(name, each) for name, each in shown if each.x.shape[1] in (1, 3)]
    if not shown:
        return None

    def called(label: Tensor) -> str:
        return classes[int(label)] if int(label) < len(classes) else str(int(label))

    most = max(4, PICTURED // len(shown))
    cards = [
        {
            "model": name,
            "image": int(each.index[i]),
            "x": data_uri(_shrunk(each.x[i])),
            "x_adv": data_uri(_shrunk(each.x_adv[i])),
            "difference": data_uri(
                _shrunk(0.5 + amplification(each.x_adv[i] - each.x[i]) * (each.x_adv[i] - each.x[i]))
            ),
            "factor": amplification(each.x_adv[i] - each.x[i]),
            "label": called(each.label[i]),
            "number": int(each.label[i]),
            "prediction": called(each.prediction[i]),
            "size": float(each.size[i]),
            "attack": each.attack[i],
        }
        for name, each in shown
        for i in range(min(most, len(each.index)))
    ]
    return {
        "cards": sorted(cards, key=lambda card: card["size"]),
        "models": [name for name, _ in shown],
        "classes": [label for _, label in sorted({(card["number"], card["label"]) for card in cards})],
    }


def _shrunk(image: Tensor) -> Tensor:
    high, wide = image.shape[-2:]
    scale = SIDE / max(high, wide)
    if scale >= 1:
        return image
    return torch.nn.functional.adaptive_avg_pool2d(image, (max(1, int(high * scale)), max(1, int(wide * scale))))


def heat_map(transfer: Transfer) -> dict[str, Any]:
    """Sources by targets, above them the unattacked images, below them the worst over black boxes."""

    def cell(measure: Any, own: bool = False) -> dict[str, Any] | None:
        if measure is None:
            return None
        return {
            "value": f"{100 * measure.value:.1f}",
            "interval": f"{100 * measure.low:.1f} – {100 * measure.high:.1f}",
            "heat": round(100 * measure.value),
            "own": own,
        }

    rows = [{"name": "unattacked", "kind": "clean", "cells": [cell(each) for each in transfer.clean]}]
    for source, found in zip(transfer.sources, transfer.accuracy, strict=True):
        cells = [
            cell(each, (source, target) in transfer.white) for each, target in zip(found, transfer.targets, strict=True)
        ]
        rows.append({"name": source, "kind": "source", "cells": cells})
    if any(each is not None for each in transfer.worst):
        rows.append(
            {"name": "worst of the black boxes", "kind": "worst", "cells": [cell(each) for each in transfer.worst]}
        )
    return {"attack": transfer.attack, "targets": transfer.targets, "rows": rows}


def attacks(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What every attack was, and what it cost, over all models."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for entry in entries:
        for space, table in entry.spaces.items():
            for name in table.attacks:
                part, record = table.only(name), table.record(name)
                if len(part):
                    row = {"name": name, "space": space, "call": record.call}
                    row |= {key: [] for key in ("images", "forwards", "gradients", "seconds")}
                    row = rows.setdefault((name, space, record.method), row)
                    row["images"].append(len(part))
                    row["forwards"].append(float(part["forwards"].mean()))
                    row["gradients"].append(float(part["gradients"].mean()))
                    row["seconds"].append(float(part["seconds"].sum()))
    return list(rows.values())


def about(entry: Entry) -> dict[str, Any]:
    """Everything that one needs to do it again."""
    return {
        "name": entry.name,
        "trained": {key: value for key, value in entry.info.items() if value},
        "evaluated": evaluated(entry),
        "recipe": entry.recipe,
    }


def evaluated(entry: Entry) -> dict[str, str]:
    """Of what a model's tables are, and where they were made: each place, where they were made in parts."""
    tables = entry.spaces.values()
    model, seeds = entry.evaluation.about.get("model"), {record.seed for table in tables for record in table.records}
    made: dict[Provenance, list[str]] = {}
    for table in tables:
        for place, names in table.made.items():
            made.setdefault(place, []).extend(name for name in names if name not in made[place])
    told = {
        "images of": entry.evaluation.about.get("data", ""),
        "model": digest(model) if model else "",
        "seed": ", ".join(map(str, sorted(seeds))),
    }
    for number, (place, names) in enumerate(made.items(), 1):
        told["made" if len(made) == 1 else f"part {number} ({', '.join(names)})"] = str(place)
        if place.command:
            told["command" if len(made) == 1 else f"command of part {number}"] = place.command
    return {key: value for key, value in told.items() if value}


def cited(entries: Sequence[Entry]) -> str:
    """The references of the methods that were used, and their papers as BibTeX."""
    from steelman.methods import cite, methods

    known = {each.name for each in methods()}
    named: list[str] = []
    for entry in entries:
        for table in entry.spaces.values():
            named += [kind for record in table.records for kind in record.kinds()]
        named += re.findall(r'\bkind = "(\w+)"', entry.recipe)
    used = [name for name in dict.fromkeys(named) if name in known]
    return "\n\n".join([SOFTWARE.format(version("steelman")), *([cite(used)] if used else [])])

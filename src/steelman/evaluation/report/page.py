"""The report: one file, no script, nothing fetched from anywhere."""

import math
import platform
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from steelman.evaluation.entry import Entry, comparable, measured
from steelman.evaluation.gallery import amplification, data_uri
from steelman.evaluation.measures import Measure
from steelman.evaluation.plots import INK, LOGGED, PALETTE, RULE, figures, svg
from steelman.evaluation.report.verdict import verdict

SYMBOLS = {"rho_2": "ρ₂", "l_2": "ℓ₂"}
TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(
    folder: str | Path, entries: Sequence[Entry], *, title: str = "", classes: Sequence[str] = (), on: str = ""
) -> Path:
    """Write `report.html` into `folder`; returns its path.

    entries  the models, in the order in which they are shown
    title    heading; by default made from the models' names
    classes  names of the classes for the gallery; numbers without them
    on       the date that is printed, today by default

    Raises:
        ValueError: no entries, two of one name, galleries of different images.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    entries = comparable(entries)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["breakable"] = _breakable
    text = environment.get_template(TEMPLATE.name).render(
        title=title or f"How robust {'is' if len(entries) == 1 else 'are'} {_listed([e.name for e in entries])}?",
        verdict=verdict(entries),
        entries=entries,
        rows=_rows(entries),
        pictures=_pictures(entries),
        gallery=_gallery(entries, classes),
        attacks=_attacks(entries),
        images=sorted({entry.evaluation.images for entry in entries}),
        versions=_versions(),
        on=on or date.today().isoformat(),
        palette=PALETTE,
    )
    path = Path(folder) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The table of measures: a row per measure, a cell per model, the best one marked."""
    rows = []
    for name in measured(entries):
        found = [entry.measures.get(name) for entry in entries]
        best = max(measure.value for measure in found if measure is not None)
        label, _, attack = name.partition(", ")
        rows.append(
            {
                "label": SYMBOLS.get(label, _headed(label)),
                "attack": attack,
                "cells": [measure and _cell(measure, len(entries) > 1 and measure.value == best) for measure in found],
            }
        )
    return rows


def _cell(measure: Measure, best: bool) -> dict[str, Any]:
    def show(value: float) -> str:
        if not math.isfinite(value):
            return "∞"
        return f"{100 * value:.1f}" if measure.kind == "share" else f"{value:#.3g}"

    return {
        "value": show(measure.value) + ("\u00a0%" if measure.kind == "share" else ""),
        "interval": f"{show(measure.low)} – {show(measure.high)}",
        "note": f"{measure.failures} of {measure.count} not reached" if measure.failures else "",
        "best": best,
    }


def _pictures(entries: Sequence[Entry]) -> dict[str, list[dict[str, str]]]:
    """Inline SVG that follows the page's colours, with a sentence for readers who cannot see it."""
    names = _listed([entry.name for entry in entries])
    found: dict[str, list[dict[str, str]]] = {"curve": [], "convergence": []}
    for stem, figure in figures(entries).items():
        kind, _, what = stem.partition("-")
        if kind == "curve":
            norm, _, space = what.partition("-")
            about = f"Accuracy versus {norm.capitalize()} radius" + (f" ({space} space)" if space else "")
        else:
            about = f"{_headed(LOGGED[what.replace('-', ' ')])}, by epoch"
        found[kind].append(
            {"about": about, "svg": _inline(svg(figure, stem, transparent=True), f"{about}, for {names}")}
        )
    return found


def _inline(text: str, label: str) -> str:
    """Strip what only a file needs, and replace the picture's inks by the page's."""
    from markupsafe import Markup, escape

    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    view = re.findall(r'viewBox="([^"]+)"', text)[0]
    text = f'<svg viewBox="{view}" role="img" aria-label="{escape(label)}"{text[text.index(">") :]}'
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if f"#{found[1]}" in text else "", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    for ink, page in (
        (INK, "currentColor"),
        (RULE, "var(--rule)"),
        *((c, f"var(--c{i})") for i, c in enumerate(PALETTE)),
    ):
        text = text.replace(ink.lower(), page)
    return Markup(text)


def _breakable(call: str) -> str:
    """A call that may be broken after its brackets, where a column is narrow."""
    from markupsafe import Markup, escape

    return escape(call).replace("(", Markup("(<wbr>"))


def _headed(text: str) -> str:
    return text[0].upper() + text[1:] if text[0].isascii() else text


def _gallery(entries: Sequence[Entry], classes: Sequence[str]) -> dict[str, Any] | None:
    """Clean images on top, and per model the perturbed ones and their differences."""
    shown = [(entry.name, entry.gallery) for entry in entries if entry.gallery is not None]
    if not shown:
        return None
    first = shown[0][1]

    def called(label: torch.Tensor) -> str:
        return classes[int(label)] if int(label) < len(classes) else str(int(label))

    factor = amplification([each for _, each in shown])
    return {
        "attack": first.attack,
        "factor": factor,
        "clean": [{"uri": data_uri(x), "label": called(y)} for x, y in zip(first.x, first.label, strict=True)],
        "models": [
            {
                "name": name,
                "images": [
                    {
                        "uri": data_uri(each.x_adv[i]),
                        "difference": data_uri(0.5 + factor * (each.x_adv[i] - each.x[i])),
                        "before": called(each.clean_prediction[i]),
                        "after": called(each.prediction[i]),
                        "wrong": bool(each.clean_prediction[i] != each.label[i]),
                        "success": bool(each.success[i]),
                        "size": float(each.size[i]),
                    }
                    for i in range(len(each.x))
                ],
            }
            for name, each in shown
        ],
    }


def _attacks(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What every attack was, and what it cost, over all models."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for entry in entries:
        for space in entry.evaluation.spaces:
            table = entry.evaluation.only(space=space)
            for name in table.attacks:
                part = table.only(name)
                key = (name, space, part["parameters"][0])
                row = rows.setdefault(
                    key,
                    {
                        "name": name,
                        "space": space,
                        "parameters": part["parameters"][0],
                        "from_prediction": part["away_from"][0] == "prediction",
                        "images": len(part),
                        "gradients": [],
                        "seconds": [],
                    },
                )
                row["gradients"].append(float(part["gradients"].mean()))
                row["seconds"].append(float(part["seconds"].sum()))
    return list(rows.values())


def _versions() -> str:
    from importlib.metadata import version

    return f"steelman {version('steelman')}, PyTorch {torch.__version__}, Python {platform.python_version()}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

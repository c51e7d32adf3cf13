"""The report: one file, nothing fetched from anywhere, whole without its script."""

import hashlib
import math
import platform
from base64 import b64encode
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from steelman.extras import require
from steelman.files import write_text
from steelman.measures import Measure, clean_accuracy
from steelman.measures.transfer import Transfer
from steelman.report import sections
from steelman.report.entry import Entry, comparable, measured
from steelman.report.explained import explained
from steelman.report.labels import headed
from steelman.report.pictures import pictures
from steelman.report.plots import PALETTE
from steelman.report.verdicts import listed, shared_threats, threat_name, verdict

SYMBOLS = {"rho_2": "ρ₂", "rho_inf": "ρ∞", "rho_cw": "ρ_cw", "l_2": "ℓ₂"}
DARK = ("#4aa8e0", "#ff8a3d", "#2fc197", "#e59ac3", "#f2b632", "#8fd0f7")
"""The palette's colours where the page is dark."""
TEMPLATES = Path(__file__).with_name("templates")


def write_report(
    folder: str | Path,
    entries: Sequence[Entry],
    *,
    title: str = "",
    classes: Sequence[str] = (),
    on: str = "",
    transfer: Sequence[Transfer] = (),
) -> Path:
    """Write `report.html` into `folder`; returns its path.

    entries   the models, in the order in which they are shown
    title     heading; by default made from the models' names
    classes   names of the classes for the gallery; numbers without them
    on        the date that is printed, today by default
    transfer  what images made on one model do to the others, one per attack

    Raises:
        ValueError: no entries, or two of one name.
    """
    require("a report", "jinja2", "matplotlib", "PIL")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    entries = comparable(entries)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    environment.filters["as"] = lambda value, form: form % value
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\u00a0%")
    text = environment.get_template("report.html.jinja").render(
        title=title or _title([entry.name for entry in entries]),
        verdict=verdict(entries, transfer),
        entries=entries,
        glance=_glance(entries),
        groups=_groups(entries),
        explained=explained(measured(entries)),
        pictures=pictures(entries),
        missing=sections.missing(entries),
        waterfalls=sections.waterfalls(entries),
        signs=sections.sign_table(entries, transfer),
        gallery=sections.gallery(entries, classes),
        transfers=[sections.heat_map(each) for each in transfer],
        attacks=sections.attacks(entries),
        images=sorted({entry.evaluation.images for entry in entries}),
        about=[sections.about(entry) for entry in entries],
        cited=sections.cited(entries),
        versions=f"steelman {version('steelman')}, PyTorch {torch.__version__}, Python {platform.python_version()}",
        on=on or date.today().isoformat(),
        palette=list(zip(PALETTE, DARK, strict=True)),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = Path(folder) / "report.html"
    write_text(path, text)
    return path


def _title(names: Sequence[str]) -> str:
    shown = listed(names) if len(names) < 4 else f"these {len(names)} models"
    return f"How robust {'is' if len(names) == 1 else 'are'} {shown}?"


def _glance(entries: Sequence[Entry]) -> dict[str, Any]:
    """A row per model: how many images it has right unattacked, and within each radius that all models met."""
    columns = {"unattacked": {entry.name: clean_accuracy(entry.evaluation) for entry in entries}}
    columns |= {f"within {threat_name(*threat)}": shares for threat, shares in shared_threats(entries).items()}
    many = len(entries) > 1
    best = {name: max(share.value for share in shares.values()) for name, shares in columns.items()}
    return {
        "columns": list(columns),
        "rows": [
            {
                "name": entry.name,
                "cells": [
                    _cell(shares[entry.name], many and shares[entry.name].value == best[name])
                    for name, shares in columns.items()
                ],
            }
            for entry in entries
        ],
    }


def _groups(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The table of measures: shares of images, then lengths and ratios; a row per measure, a cell per model."""
    groups: dict[str, list[dict[str, Any]]] = {"Share of the images": [], "Size of the perturbation": [], "Probes": []}
    probes = {probe.partition("(")[0] for entry in entries for probe in entry.evaluation.probes}
    for name in measured(entries):
        found = [entry.measures.get(name) for entry in entries]
        known = [measure for measure in found if measure is not None]
        label, _, attack = name.partition(", ")
        probed = label.partition("(")[0] in probes  # of which more is not better
        best = None if probed or len(known) == 1 else max(measure.value for measure in known)
        place = 2 if probed else 0 if known[0].kind == "share" else 1
        for plain, symbol in SYMBOLS.items():
            label = label.replace(plain, symbol)
        groups[list(groups)[place]].append(
            {
                "label": label if probed else headed(label),
                "attack": attack,
                "cells": [measure and _cell(measure, measure.value == best) for measure in found],
            }
        )
    return [{"name": name, "rows": rows} for name, rows in groups.items() if rows]


def _cell(measure: Measure, best: bool) -> dict[str, Any]:
    def show(value: float) -> str:
        if not math.isfinite(value):
            return "not a number" if math.isnan(value) else "∞"
        return f"{100 * value:.1f}" if measure.kind == "share" else f"{value:#.3g}"

    share = measure.kind == "share"
    return {
        "value": show(measure.value) + ("\u00a0%" if share else ""),
        "interval": f"{show(measure.low)} – {show(measure.high)}",
        "sort": measure.value if math.isfinite(measure.value) else 1e300,
        "note": f"{measure.failures} of {measure.count} not reached" if measure.failures else "",
        "best": best,
        "track": [round(100 * each, 1) for each in (measure.low, measure.value, measure.high)] if share else None,
    }


def _breakable(call: str) -> str:
    """A call that may be broken after its brackets, where a column is narrow."""
    from markupsafe import Markup, escape

    return escape(call).replace("(", Markup("(<wbr>"))

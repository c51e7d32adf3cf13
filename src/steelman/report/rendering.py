"""A document as a page, one file that fetches nothing and is whole without its script, and as Markdown."""

import math
import platform
from base64 import b64encode
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steelman.extras import require
from steelman.files import sha256
from steelman.measures import Measure, clean_accuracy
from steelman.measures.all_measures import explained
from steelman.measures.paper_table import SYMBOLS, md
from steelman.report.answers import threat_name
from steelman.report.document import Document, evaluated
from steelman.report.gallery import cards
from steelman.report.labels import headed
from steelman.report.pictures import readable
from steelman.report.plots import PALETTE
from steelman.report.verdicts import listed

if TYPE_CHECKING:
    import jinja2

DARK = ("#4aa8e0", "#ff8a3d", "#2fc197", "#e59ac3", "#f2b632", "#8fd0f7")
"""The palette's colours where the page is dark."""
TEMPLATES = Path(__file__).with_name("templates")


def report_page(document: Document) -> str:
    """`report.html`."""
    from markupsafe import Markup

    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    names = listed([entry.name for entry in document.entries])
    return _rendered(
        "report.html.jinja",
        document,
        glance=_glance(document),
        groups=_groups(document),
        explained=explained(document.measured),
        pictures={stem: readable(picture, stem, names) for stem, picture in document.pictures.items()},
        gallery=cards({entry.name: entry.gallery for entry in document.entries}, document.classes),
        versions=f"steelman {version('steelman')}, PyTorch {torch.__version__}, Python {platform.python_version()}",
        palette=list(zip(PALETTE, DARK, strict=True)),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=b64encode(bytes.fromhex(sha256(script))).decode(),
    )


def report_markdown(document: Document, pictures: bool = False) -> str:
    """`report.md`: the content of the page without the gallery.

    pictures  link the pictures' files, which `write` puts beside the report
    """
    return _rendered("report.md.jinja", document, pictures=document.charts if pictures else {}) + "\n"


def _rendered(template: str, document: Document, **values: Any) -> str:
    values |= {"document": document, "entries": document.entries, "verdict": document.verdict, "evaluated": evaluated}
    return _environment().get_template(template).render(values)


@cache
def _environment() -> "jinja2.Environment":
    require("a report", "jinja2", "PIL")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    environment.filters["as"] = lambda value, form: form % value
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\u00a0%")
    environment.filters["md"] = lambda value: md(str(value))
    return environment


def _glance(document: Document) -> dict[str, Any]:
    """A row per model: clean accuracy, and robust accuracy within each radius at which all models were attacked."""
    columns = {"unattacked": {entry.name: clean_accuracy(entry.evaluation) for entry in document.entries}}
    columns |= {f"within {threat_name(*threat)}": shares for threat, shares in document.shares.items()}
    many = len(document.entries) > 1
    best = {name: max(share.value for share in shares.values()) for name, shares in columns.items()}
    rows = {
        entry.name: [
            _cell(shares[entry.name], many and shares[entry.name].value == best[name])
            for name, shares in columns.items()
        ]
        for entry in document.entries
    }
    answers = {each.model: each.word for each in document.verdict.answers}
    return {"columns": list(columns), "rows": rows, "answers": answers}


def _groups(document: Document) -> dict[str, list[dict[str, Any]]]:
    """The table of measures: shares of images, then lengths and ratios; a row per measure, a cell per model."""
    groups: dict[str, list[dict[str, Any]]] = {"Share of the images": [], "Size of the perturbation": [], "Probes": []}
    shares, sizes, probed = groups.values()
    probes = {probe.partition("(")[0] for entry in document.entries for probe in entry.evaluation.probes}
    for name in document.measured:
        models = [entry.measures.get(name) for entry in document.entries]
        known = [measure for measure in models if measure is not None]
        label, _, attack = name.partition(", ")
        is_probe = label.partition("(")[0] in probes  # of which more is not better
        best = None if is_probe or len(known) == 1 else max(measure.value for measure in known)
        for plain, (symbol, _) in SYMBOLS.items():
            label = label if plain == "eps_ref" else label.replace(plain, symbol)
        cells = [measure and _cell(measure, measure.value == best) for measure in models]
        group = probed if is_probe else shares if known[0].kind == "share" else sizes
        group.append({"label": label if is_probe else headed(label), "attack": attack, "cells": cells})
    return {name: rows for name, rows in groups.items() if rows}


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

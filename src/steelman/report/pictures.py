"""Pictures on the page: inline SVG that follows its colours, and the data behind the lines for who points at them."""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from steelman.measures.curves import curve
from steelman.norms import NORMS
from steelman.report.entry import Entry
from steelman.report.labels import headed
from steelman.report.plots import INK, PALETTE, RULE, figures, svg
from steelman.report.verdicts import listed

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.axis
    import matplotlib.figure
    import matplotlib.lines

POINTS = 240
"""Points of a line that can be pointed at: one for about every other pixel."""
POINT_UNIT = 72
"""Matplotlib writes SVG in points, so many to the inch."""


def pictures(entries: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
    """By section, what every picture shows, the picture, what can be read off it, and a few of its numbers."""
    found: dict[str, list[dict[str, Any]]] = {"curves": [], "training": []}
    names = listed([entry.name for entry in entries])
    for stem, figure in figures(entries).items():
        about = str(figure.get_label()) or stem
        about = headed(about)
        drawn = svg(figure, stem, transparent=True)
        axes = figure.axes[0]
        lines = _lines(figure, axes)
        marks = _marks(entries, stem, figure, axes) if stem.startswith("curve-") else []
        section = "training" if stem.startswith(("convergence-", "time-")) else "curves"
        found[section].append(
            {
                "about": about,
                "svg": _inline(drawn, f"{about}, for {names}"),
                "read": {
                    "box": _box(figure, axes),
                    "x": axes.get_xlabel(),
                    "percent": _is_percent(axes.yaxis),
                    "across": _is_percent(axes.xaxis),
                    "lines": lines,
                    "marks": marks,
                },
                "x": axes.get_xlabel(),
                "numbers": _numbers(axes),
            }
        )
    return found


def _curves_lines(axes: "matplotlib.axes.Axes") -> "Iterator[matplotlib.lines.Line2D]":
    """The lines that belong to a model; what else is drawn has a label that begins with an underscore."""
    return (
        line for line in axes.get_lines() if not str(line.get_label()).startswith("_") and np.size(line.get_xdata())
    )


def _lines(figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes") -> list[dict[str, Any]]:
    found = []
    for line in _curves_lines(axes):
        values = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
        values = values[np.isfinite(values).all(1)]
        at = _on_page(figure, axes, values)
        kept = _thinned(at[:, 0])
        found.append(
            {
                "name": str(line.get_label()).lstrip("\u200b").replace(r"\$", "$"),
                "colour": _colour(line.get_color()),
                "step": str(line.get_drawstyle()) == "steps-post",
                **_points(values[kept], at[kept]),
            }
        )
    return found


def _marks(
    entries: Sequence[Entry], stem: str, figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes"
) -> list[dict[str, Any]]:
    """The bounded attacks, by name, which the picture has as markers alone."""
    _, norm, *space = stem.split("-")
    found = []
    for entry, place in zip(entries, cycle(range(len(PALETTE)))):
        table = entry.spaces.get((space or ["pixels"])[0])
        if table is None:
            continue
        drawn = curve(table, next(each for name, each in NORMS.items() if name.lower() == norm))
        for name, eps, share in drawn.points:
            value = np.array([[eps, share]])
            here = _points(value, _on_page(figure, axes, value))
            found.append({"name": name, "of": entry.name, "colour": place} | {key: at[0] for key, at in here.items()})
    return found


def _on_page(figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes", values: np.ndarray) -> np.ndarray:
    """Where values of the axes stand in the SVG, whose y runs downwards."""
    if not len(values):
        return values
    at = axes.transData.transform(values) * POINT_UNIT / figure.dpi
    return np.column_stack([at[:, 0], figure.get_figheight() * POINT_UNIT - at[:, 1]])


def _box(figure: "matplotlib.figure.Figure", axes: "matplotlib.axes.Axes") -> list[float]:
    """Left, top, right and bottom of the axes in the SVG."""
    corners = axes.get_window_extent().get_points() * POINT_UNIT / figure.dpi
    height = figure.get_figheight() * POINT_UNIT
    return [
        round(float(each), 1) for each in (corners[0, 0], height - corners[1, 1], corners[1, 0], height - corners[0, 1])
    ]


def _thinned(across: np.ndarray) -> np.ndarray:
    """The places of at most `POINTS` points, spread over the width; the first, the last and exact values stay."""
    if len(across) <= POINTS:
        return np.arange(len(across))
    low, high = across.min(), across.max()
    cell = np.floor((across - low) / max(high - low, 1e-9) * (POINTS - 2))
    last = np.flatnonzero(np.diff(cell, append=np.inf))  # of each cell the last, so that a step has its final height
    return np.unique(np.concatenate([[0], last]))


def _points(values: np.ndarray, at: np.ndarray) -> dict[str, list[float]]:
    short = [[float(f"{each:.5g}") for each in column] for column in values.T]
    return {"x": short[0], "y": short[1], "px": at[:, 0].round(1).tolist(), "py": at[:, 1].round(1).tolist()}


def _numbers(axes: "matplotlib.axes.Axes") -> dict[str, Any] | None:
    """Every line's height at the picture's ticks, for who cannot see or point."""
    low, high = sorted(axes.get_xlim())
    ticks = [float(tick) for tick in axes.get_xticks() if low <= tick <= high]
    rows = []
    for line in _curves_lines(axes):
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        cells = []
        for tick in ticks:
            if str(line.get_drawstyle()) == "steps-post":
                place = int(np.searchsorted(x, tick, side="right")) - 1
                cells.append(y[place] if place >= 0 else math.nan)
            else:
                same = np.flatnonzero(np.isclose(x, tick))
                cells.append(y[same[0]] if len(same) else math.nan)
        shown = [_shown(float(cell), _is_percent(axes.yaxis)) for cell in cells]
        rows.append({"name": str(line.get_label()).lstrip("\u200b").replace(r"\$", "$"), "cells": shown})
    kept = [place for place in range(len(ticks)) if any(row["cells"][place] for row in rows)]
    if not kept:
        return None
    for row in rows:
        row["cells"] = [row["cells"][place] for place in kept]
    return {"ticks": [_shown(ticks[place], _is_percent(axes.xaxis)) for place in kept], "rows": rows}


def _shown(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return ""
    return f"{100 * value:.1f}\u00a0%" if percent else f"{value:.4g}"


def _is_percent(axis: "matplotlib.axis.Axis") -> bool:
    from matplotlib.ticker import PercentFormatter

    return isinstance(axis.get_major_formatter(), PercentFormatter)


def _colour(colour: Any) -> int:
    return next((place for place, each in enumerate(PALETTE) if each.lower() == str(colour).lower()), -1)


def _inline(text: str, label: str) -> str:
    """Strip what only a file needs, and replace the picture's inks by the page's."""
    from markupsafe import Markup, escape

    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", tag[0]), text)
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

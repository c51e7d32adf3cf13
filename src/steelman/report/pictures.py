"""Pictures on the page: inline SVG in the page's colours, and the numbers behind its lines, to be read off."""

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from steelman.report.charts import Chart, Series
from steelman.report.labels import INK
from steelman.report.plots import PALETTE, RULE, Picture

if TYPE_CHECKING:
    import matplotlib.figure

POINTS = 240
"""Points of a line that can be pointed at: one for about every other pixel."""
POINT_UNIT = 72
"""Matplotlib writes SVG in points, so many to the inch."""


def readable(picture: Picture, stem: str, names: str) -> dict[str, Any]:
    """The picture as the page shows it: its caption, SVG, what can be read off it, and a few of its numbers."""
    chart, figure = picture.chart, picture.figure
    lines, marks = [], []
    for place, series in chart.shown:
        own = {"name": series.name, "colour": place % len(PALETTE)}
        values = np.column_stack([series.x, series.y])
        at = _on_page(figure, values)
        kept = _thinned(at[:, 0])
        lines.append(own | {"step": series.step} | _points(values[kept], at[kept]))
        for x, y, name in series.marks:
            if name:
                values = np.array([[x, y]])
                here = {key: each for key, (each,) in _points(values, _on_page(figure, values)).items()}
                marks.append(own | {"name": name, "of": series.name} | here)
    read = {"box": _box(figure), "x": chart.across.label, "percent": chart.up.share, "across": chart.across.share}
    return {
        "about": chart.about,
        "training": stem.startswith(("convergence-", "time-")),
        "svg": _inline(picture.svg, f"{chart.about}, for {names}"),
        "read": read | {"lines": lines, "marks": marks},
        "numbers": _numbers(chart, figure),
    }


def _on_page(figure: "matplotlib.figure.Figure", values: np.ndarray) -> np.ndarray:
    """The places of values in the SVG, whose y runs downwards."""
    at = figure.axes[0].transData.transform(values) * POINT_UNIT / figure.dpi
    return np.column_stack([at[:, 0], figure.get_figheight() * POINT_UNIT - at[:, 1]])


def _box(figure: "matplotlib.figure.Figure") -> list[float]:
    """Left, top, right and bottom of the axes in the SVG."""
    (left, low), (right, high) = figure.axes[0].get_window_extent().get_points() * POINT_UNIT / figure.dpi
    height = figure.get_figheight() * POINT_UNIT
    return [round(float(each), 1) for each in (left, height - high, right, height - low)]


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


def _numbers(chart: Chart, figure: "matplotlib.figure.Figure") -> dict[str, Any] | None:
    """Every line's height at the picture's ticks, for those who cannot see or point."""
    low, high = sorted(figure.axes[0].get_xlim())
    ticks = [float(tick) for tick in figure.axes[0].get_xticks() if low <= tick <= high]
    rows = {series.name: [_shown(_height(series, tick), chart.up.share) for tick in ticks] for _, series in chart.shown}
    kept = [place for place in range(len(ticks)) if any(cells[place] for cells in rows.values())]
    if not kept:
        return None
    return {
        "ticks": [_shown(ticks[place], chart.across.share) for place in kept],
        "rows": {name: [cells[place] for place in kept] for name, cells in rows.items()},
    }


def _height(series: Series, x: float) -> float:
    """A step's height; of another line the point's, where it has one."""
    if series.step:
        place = int(np.searchsorted(series.x, x, side="right")) - 1
        return float(series.y[place]) if place >= 0 else math.nan
    same = np.flatnonzero(np.isclose(series.x, x))
    return float(series.y[same[0]]) if len(same) else math.nan


def _shown(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return ""
    return f"{100 * value:.1f}\u00a0%" if percent else f"{value:.4g}"


def _inline(text: str, label: str) -> str:
    """The SVG without what only a file needs, and with the page's inks and no background."""
    from markupsafe import Markup, escape

    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", tag[0]), text)
    view = re.findall(r'viewBox="([^"]+)"', text)[0]
    text = f'<svg viewBox="{view}" role="img" aria-label="{escape(label)}"{text[text.index(">") :]}'
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if f"#{found[1]}" in text else "", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = text.replace('style="fill: #ffffff"', 'style="fill: none"')
    colours = {INK: "currentColor", RULE: "var(--rule)"} | {each: f"var(--c{i})" for i, each in enumerate(PALETTE)}
    for ink, page in colours.items():
        text = text.replace(ink.lower(), page)
    return Markup(text)

"""A paper's figures, drawn from the results."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from steelman.measures.line import Axis
from steelman.papers.jobs import at_radius
from steelman.papers.paper import Figure, Network, Panel, Paper
from steelman.papers.results import Reader, Value
from steelman.report.charts import Chart, Series
from steelman.report.plots import draw, panels, save_figure

QUANTITIES = {
    "test_clean": Axis("test accuracy", share=True),
    "test_rho_2": Axis("rho_2"),
    "clean": Axis("held-out accuracy", share=True),
    "robust": Axis("held-out robust accuracy", share=True),
}
"""What a training logs."""

SECONDS = Axis("seconds of training")


def charts_of(paper: Paper, figure: Figure, reader: Reader) -> list[tuple[Panel, Chart]]:
    """The panels of a figure that have a line."""
    makers = {"epochs": _epochs, "radii": _radii, "points": _points}
    panels = (panel for panel in figure.panels if panel.kind in makers)
    found = ((panel, makers[panel.kind](paper, panel, reader)) for panel in panels)
    return [(panel, chart) for panel, chart in found if chart.shown]


def draw_figures(paper: Paper, reader: Reader, folder: Path) -> list[Path]:
    """Write the figures that have a line; returns their paths."""
    written = []
    for figure in paper.figures.values():
        charts = charts_of(paper, figure, reader)
        if not charts:
            continue
        axes = panels(len(charts), across=2)
        drawn = [draw(chart, each, each is axes[-1]) for (_, chart), each in zip(charts, axes, strict=True)]
        for (panel, chart), each in zip(charts, axes, strict=True):
            each.set_title(chart.about)
            if panel.kind != "radii":  # what differs is far from 0
                each.autoscale(axis="y")
        written.append(folder / f"{paper.name}-figure-{figure.name}.png")
        save_figure(drawn[-1], written[-1])
    return written


def caption_of(paper: Paper, figure: Figure, reader: Reader) -> str:
    """What stands under a figure: its numbers, as far as it is drawn from some; "" where it is not drawn."""
    if figure.kind in ("images", "drawn"):
        found = reader.results.pictures.get(figure.name)
        return "" if found is None else "\n".join(f"- {line}" for line in found["facts"])
    charts = charts_of(paper, figure, reader)
    reduced = sorted({text for panel in figure.panels for text in _reduced(panel, reader)})
    lines = [f"- {chart.about}: {'; '.join(_ends(chart, panel.kind))}." for panel, chart in charts]
    return "\n".join([*lines, *(f"- Scale {text}." for text in reduced)]) if lines else ""


def _ends(chart: Chart, kind: str) -> Iterator[str]:
    """The last value of a line, or the whole of a line of points."""
    for _, series in chart.shown:
        if kind == "points":
            pairs = zip(series.x, series.y, strict=True)
            yield f"{series.name} " + ", ".join(
                f"({_number(x, chart.across)}, {_number(y, chart.up)})" for x, y in pairs
            )
        elif chart.across == SECONDS:
            pairs = zip(series.x, series.y, strict=True)
            yield f"{series.name} " + ", ".join(f"{_number(y, chart.up)} after {x:.0f} s" for x, y in pairs)
        elif kind == "epochs":
            yield f"{series.name} {' '.join(_number(y, chart.up) for y in series.y)}"
        else:
            x, y = np.asarray(series.x), np.asarray(series.y)
            half = x[np.argmax(y >= 0.5)] if (y >= 0.5).any() and y[0] < 0.5 else None
            last = f"{_number(y[-1], chart.up)} at {x[-1]:g}"
            yield f"{series.name} {last}" + (f", half at {half:g}" if half is not None else "")


def _number(value: float, axis: Axis) -> str:
    return f"{100 * value:.1f} %" if axis.share else f"{value:.3g}"


def _reduced(panel: Panel, reader: Reader) -> Iterator[str]:
    for networks in panel.curves.values():
        for network in networks:
            if not panel.evaluation:
                if text := reader.log(network)[1]:
                    yield text
            elif panel.y and (value := reader.measured(network, panel.evaluation, panel.y)) and value.reduced:
                yield f"{value.scale}: {value.reduced}"


def _epochs(paper: Paper, panel: Panel, reader: Reader) -> Chart:
    series = []
    for name, (network, *_) in panel.curves.items():
        log = reader.log(network)[0]
        spent = np.cumsum([line.get("seconds", 0.0) for line in log])
        pairs = [
            (seconds if panel.x == "seconds" else line["epoch"], line[panel.y])
            for line, seconds in zip(log, spent, strict=True)
            if panel.y in line
        ]
        x, y = np.array(pairs, dtype=float).reshape(-1, 2).T
        series.append(Series(name, x, y) if pairs else None)
    across = SECONDS if panel.x == "seconds" else Axis("epoch")
    return Chart(panel.title, across, QUANTITIES.get(panel.y, Axis(panel.y)), tuple(series))


def _radii(paper: Paper, panel: Panel, reader: Reader) -> Chart:
    evaluation = paper.evaluations[panel.evaluation]
    suffix = " (preprocessed)" if evaluation.space == "preprocessed" else ""
    radii = [radius for radius in evaluation.radii[panel.attack] if not isinstance(radius, str)]
    series = []
    for name, (network, *_) in panel.curves.items():
        measures = (f"accuracy, {at_radius(panel.attack, radius)}{suffix}" for radius in radii)
        found = [reader.measured(network, panel.evaluation, measure) for measure in measures]
        pairs = [(float(radius), value) for radius, value in zip(radii, found, strict=True) if value is not None]
        series.append(_line(name, pairs, panel.success) if pairs else None)
    up = Axis("success rate" if panel.success else "accuracy", share=True)
    return Chart(panel.title, Axis(panel.x or "ε"), up, tuple(series))


def _line(name: str, pairs: list[tuple[float, Value]], success: bool) -> Series:
    y = np.array([1 - value.value if success else value.value for _, value in pairs])
    return Series(name, np.array([radius for radius, _ in pairs]), y)


def _points(paper: Paper, panel: Panel, reader: Reader) -> Chart:
    axes: dict[str, Axis] = {}
    series = []
    for name, networks in panel.curves.items():
        found = [_point(panel, network, reader, axes) for network in networks]
        pairs = [pair for pair in found if pair is not None]  # in the order of the setting that varies
        x, y = np.array(pairs).T if pairs else (np.array([]), np.array([]))
        series.append(Series(name, x, y) if pairs else None)
    none = Axis("")
    return Chart(panel.title, axes.get(panel.x, none), axes.get(panel.y, none), tuple(series))


def _point(panel: Panel, network: Network, reader: Reader, axes: dict[str, Axis]) -> tuple[float, float] | None:
    values = [reader.measured(network, panel.evaluation, measure) for measure in (panel.x, panel.y)]
    x, y = values
    if x is None or y is None:
        return None
    for measure, value in ((panel.x, x), (panel.y, y)):
        axes[measure] = Axis(measure.removesuffix(" (preprocessed)"), share=value.kind == "share")
    return x.value, y.value

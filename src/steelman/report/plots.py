"""Charts drawn with matplotlib's object interface: nothing global is touched."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelman.extras import require
from steelman.files import replacing, write_text
from steelman.report.charts import Chart
from steelman.report.labels import INK, place_names

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.axis
    import matplotlib.figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which colour-blind readers can tell apart; each goes with a dash and a marker of its own."""
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (1, 1)))
MARKERS = "osD^vP"
RULE = "#9A9B9C"


@dataclass(frozen=True, eq=False)
class Picture:
    """A chart, drawn once: the figure, and the same as SVG text."""

    chart: Chart
    figure: "matplotlib.figure.Figure"
    svg: str


def pictures_of(charts: Mapping[str, Chart]) -> dict[str, Picture]:
    """Every chart drawn, by file name."""
    found = {}
    for stem, chart in charts.items():
        figure = draw(chart)
        found[stem] = Picture(chart, figure, svg(figure, stem))
        figure.set_layout_engine("none")  # PNG and page have the layout of the SVG
    return found


def draw(chart: Chart, axes: "matplotlib.axes.Axes | None" = None, legend: bool = True) -> "matplotlib.figure.Figure":
    """A chart as a figure, or on given axes; of one robustness curve, whose points are named, without a legend."""
    axes = panels()[0] if axes is None else axes
    for place, series in chart.shown:
        look, size = _look(place), 4.5 if len(series.x) < 20 else 2.5
        line: dict[str, Any] = look | {"drawstyle": "steps-post", "marker": ""} if series.step else look
        axes.plot(series.x, series.y, **line, markersize=size, label=_named(series.name))
        if series.marks:
            alone: dict[str, Any] = look | {"linestyle": "", "label": f"_{series.name}"}
            axes.plot(*zip(*(mark[:2] for mark in series.marks), strict=True), markersize=size, **alone)
        for x, low, high in series.bars:
            axes.vlines(x, low, high, color=look["color"], alpha=0.35, linewidth=1.2)
    axes.set(xlabel=chart.across.label, ylabel=chart.up.label)
    _scale(axes, chart)
    if legend and (chart.names is None or len(chart.series) > 1):
        _legend(axes)
    if chart.names is not None:
        axes.margins(0.08)
        place_names(axes, [(x, y, _named(_short(name, 24))) for x, y, name in chart.names])
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_label(chart.about)
    return figure


def save_figure(figure: "matplotlib.figure.Figure", path: str | Path, text: str = "") -> None:
    """Write `path` as PNG and as SVG, whatever suffix it has; `text` is the SVG, where there is one already."""
    path = Path(path)
    with replacing(path.with_suffix(".png")) as partial, _without_tex(figure):
        figure.savefig(partial, format="png", dpi=160)
    write_text(path.with_suffix(".svg"), text or svg(figure, path.stem))


def svg(figure: "matplotlib.figure.Figure", salt: str) -> str:
    """The figure as SVG text, the same text for the same figure; `salt` keeps ids apart on a page."""
    import io

    import matplotlib

    text = io.StringIO()
    with _without_tex(figure), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


@contextmanager
def _without_tex(figure: "matplotlib.figure.Figure") -> Iterator[None]:
    """matplotlib reads a file `matplotlibrc` in the working directory, which may ask for LaTeX: it is not run."""
    import matplotlib
    from matplotlib.text import Text

    with matplotlib.rc_context({"text.usetex": False}):
        for text in figure.findobj(Text):
            if isinstance(text, Text):
                text.set_usetex(False)
        yield


def panels(count: int = 1, across: int | None = None) -> "list[matplotlib.axes.Axes]":
    """Empty axes in one figure, side by side, or so many `across`."""
    require("a picture", "matplotlib")
    from matplotlib.figure import Figure

    across = min(across or count, count)
    rows = -(-count // across)
    figure = Figure(figsize=(5.2 * across, 3.6 * rows), layout="constrained")
    return [_styled(figure.add_subplot(rows, across, place + 1)) for place in range(count)]


def _styled(axes: "matplotlib.axes.Axes") -> "matplotlib.axes.Axes":
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=INK, labelsize=10, length=3)
    axes.xaxis.label.set(color=INK, size=10.5)
    axes.yaxis.label.set(color=INK, size=10.5)
    axes.title.set(color=INK, size=11)
    axes.grid(color=RULE, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def _look(place: int) -> dict[str, Any]:
    """A colour, a dash and a marker per model; past as many as there are, the same colours with other markers."""
    turn, kind = divmod(place, len(PALETTE))
    other = (kind + turn) % len(PALETTE)
    return {"color": PALETTE[kind], "linestyle": DASHES[other], "marker": MARKERS[other], "linewidth": 1.8}


def _named(name: str) -> str:
    """A model's name in the legend, where a dollar would begin a formula and a first underscore would hide it."""
    return "\u200b" + name.replace("$", r"\$")


def _scale(axes: "matplotlib.axes.Axes", chart: Chart) -> None:
    """Limits, ticks and percent signs."""
    from matplotlib.ticker import MaxNLocator

    if chart.up.share:
        _percent(axes.yaxis)
    if chart.reach is not None:
        axes.set(xlim=(0, chart.reach), ylim=(0, 1))
        return
    _ticks(axes, np.concatenate([series.x for _, series in chart.shown]))
    if chart.across.share:
        _percent(axes.xaxis)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    elif all(y >= 0 for _, series in chart.shown for y in (*series.y, *(mark[1] for mark in series.marks))):
        axes.set_ylim(bottom=0)


def _ticks(axes: "matplotlib.axes.Axes", xs: np.ndarray) -> None:
    """Whole numbers where all are; a logarithmic scale where few whole numbers span a wide range."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

    values = np.unique(xs)
    if (values != values.round()).any():
        return
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if 3 <= len(values) <= 8 and values[0] > 0 and values[-1] / values[0] > 15:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(values.tolist()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())


def _percent(axis: "matplotlib.axis.Axis") -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))


def _legend(axes: "matplotlib.axes.Axes") -> None:
    """In the picture where it is small, else below it."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    handles, names = axes.get_legend_handles_labels()
    look: dict[str, Any] = {"frameon": False, "fontsize": 10, "labelcolor": INK, "handlelength": 3}
    longest = max(map(len, names), default=0)
    if len(figure.axes) > 1 or (len(names) <= 4 and longest <= 24):
        axes.legend(**look)
        return
    columns = max(1, min(3, 60 // (longest + 8)))
    rows = -(-len(names) // columns)
    width, _ = figure.get_size_inches()
    figure.set_size_inches(width, 3.6 + 0.22 * rows)
    shown = [_short(name, 56) for name in names]
    figure.legend(handles, shown, loc="outside lower center", ncols=columns, columnspacing=1.5, **look)


def _short(name: str, most: int) -> str:
    """A name without its middle, where it is longer than so many letters."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most - most // 2 - 1) :]}"

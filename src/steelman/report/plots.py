"""Pictures of curves and of training, with matplotlib's object interface: nothing global is touched."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelman.files import replacing, write_text
from steelman.measures.curves import (
    LOGGED,
    Curve,
    against,
    attacked_norms,
    by_time,
    convergence,
    curve,
    success_rates,
)
from steelman.measures.line import Line
from steelman.measures.robustness import default_measure, robustness_curve
from steelman.report.entry import Entry
from steelman.report.labels import INK, headed, place_names
from steelman.table.table import Evaluation

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.axis
    import matplotlib.figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which colour-blind readers can tell apart; each goes with a dash and a marker of its own."""
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (1, 1)))
MARKERS = "osD^vP"
RULE = "#9A9B9C"


def figures(entries: Sequence[Entry]) -> dict[str, "matplotlib.figure.Figure"]:
    """Every picture that the models allow, by file name; what it shows is its `get_label()`.

    robustness              clean accuracy against the worst case, for two models or more
    curve-<norm>            accuracy versus radius, per norm and space
    steps-<attack>          accuracy against the number of steps, where an attack was run with several
    success-<attack>        success rate against the radius, where an attack was run at three or more
    convergence-<quantity>  what was logged of the training, by epoch
    time-<quantity>         accuracies by seconds of training
    """
    found = {}
    if len(entries) > 1:
        models = {entry.name: entry.measures for entry in entries}
        if measure := default_measure(models):
            lines = {name: robustness_curve({name: each}, measure) for name, each in models.items()}
            found["robustness"] = draw_robustness(lines)
    for space in dict.fromkeys(space for entry in entries for space in entry.spaces):
        tables = {entry.name: entry.spaces[space] for entry in entries if space in entry.spaces}
        suffix = "" if space == "pixels" else f"-{space}"
        for norm in dict.fromkeys(norm for table in tables.values() for norm in attacked_norms(table)):
            curves = {name: curve(table, norm) for name, table in tables.items()}
            found[f"curve-{norm!r}".lower() + suffix] = draw_curves(curves, space)
        for stem, of, least in (("steps", lambda table: against(table, "steps"), 2), ("success", success_rates, 4)):
            for attack, lines in _by_attack(tables, of).items():
                if max(len(line.knots[0]) for line in lines.values() if line) >= least:
                    found[f"{stem}-{_slug(attack)}{suffix}"] = draw_lines(lines, of=attack)
    logs = {entry.name: entry.log for entry in entries}
    found |= {f"convergence-{_slug(key)}": figure for key, figure in draw_convergence(logs).items()}
    return found | {f"time-{_slug(key)}": figure for key, figure in draw_convergence(logs, by_time, TIMED).items()}


TIMED = ("clean", "robust", "test_clean")


def _by_attack(
    tables: Mapping[str, Evaluation], of: Callable[[Evaluation], dict[str, Line]]
) -> dict[str, dict[str, Line | None]]:
    """Lines of every model, by the attack that they are of."""
    found = {name: of(table) for name, table in tables.items()}
    attacks = dict.fromkeys(attack for lines in found.values() for attack in lines)
    return {attack: {name: lines.get(attack) for name, lines in found.items()} for attack in attacks}


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-")


def draw_curves(curves: Mapping[str, Curve], unit: str = "pixels") -> "matplotlib.figure.Figure":
    """One line per model, and a marker per bounded attack.

    Raises:
        ValueError: no curves, or of different norms.
    """
    norms = {found.norm for found in curves.values()}
    if len(norms) != 1:
        raise ValueError(f"one picture shows one norm; got {sorted(repr(norm) for norm in norms)}")
    (axes,) = panels()
    figure = axes.get_figure(root=True)
    assert figure is not None
    reach = max((_reach(found) for found in curves.values()), default=1.0)
    for (name, found), look in zip(curves.items(), _looks(), strict=False):
        points = sorted(((eps, share) for _, eps, share in found.points), key=lambda point: (point[0], -point[1]))
        if len(found.radius) > 1:
            line: dict[str, Any] = look | {"marker": "", "label": _named(name)}
            axes.step([*found.radius, reach], [*found.accuracy, found.accuracy[-1]], where="post", **line)
        else:  # points only: a line through the strongest attack at each radius leads the eye
            lowest = dict(points)
            axes.plot([0, *lowest], [found.accuracy[0], *lowest.values()], markersize=5, **look, label=_named(name))
        alone: dict[str, Any] = look | {"linestyle": "", "label": f"_{name}"}
        axes.plot([eps for eps, _ in points], [share for _, share in points], markersize=5, **alone)
    norm = norms.pop()
    axes.set(xlim=(0, reach), ylim=(0, 1), xlabel=f"radius, {norm!r} ({unit})", ylabel="accuracy")
    _percent(axes.yaxis)
    _legend(axes)
    figure.set_label(f"Accuracy versus {norm!r} radius" + ("" if unit == "pixels" else f" ({unit} space)"))
    return figure


def draw_lines(
    lines: Mapping[str, Line | None],
    *,
    of: str = "",
    axes: "matplotlib.axes.Axes | None" = None,
    legend: bool = True,
) -> "matplotlib.figure.Figure":
    """Lines of the same quantities, one per model, with an error bar where a point has an interval.

    lines   by name; a model without a line keeps its colour, so that the others have theirs in every picture
    of      what the lines are of, for the caption
    axes    where to draw; default: `panels()`
    legend  say which line is whose

    Raises:
        ValueError: no lines, or of different quantities.
    """
    from matplotlib.ticker import MaxNLocator

    drawn = [line for line in lines.values() if line]
    kinds = {(line.across, line.up) for line in drawn}
    if len(kinds) != 1:
        told = sorted(f"{up.label} against {across.label}" for across, up in kinds)
        raise ValueError(f"one picture shows one pair of quantities; got {' and '.join(told) or 'none'}")
    ((across, up),) = kinds
    axes = panels()[0] if axes is None else axes
    for (name, line), look in zip(lines.items(), _looks(), strict=False):
        if line is None:
            continue
        size = 4.5 if len(line.points) < 20 else 2.5
        axes.plot(*line.knots, **look, markersize=size, label=_named(name))
        below = [(point.x, point.y) for point in line.points if point.y < line.at(point.x)]
        if below:  # points of an x at which another one stands higher
            alone: dict[str, Any] = look | {"linestyle": "", "label": f"_{name}"}
            axes.plot(*zip(*below, strict=True), markersize=size, **alone)
        for point in line.points:
            if point.low is not None and point.high is not None:
                axes.vlines(point.x, point.low, point.high, color=look["color"], alpha=0.35, linewidth=1.2)
    axes.set(xlabel=across.label, ylabel=up.label)
    xs = np.array([point.x for line in drawn for point in line.points])
    _ticks(axes, xs)
    if up.share:
        _percent(axes.yaxis)
    if across.share:
        _percent(axes.xaxis)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    elif all(point.y >= 0 for line in drawn for point in line.points):
        axes.set_ylim(bottom=0)
    if legend:
        _legend(axes)
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_label(f"{headed(up.label)} by {across.label}{f', {of}' if of else ''}")
    return figure


def draw_robustness(
    curves: Mapping[str, Line], *, axes: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.figure.Figure":
    """Robustness curves, every point with its name unless that is the curve's: further up and to the right is better.

    Raises:
        ValueError: no curves, or of different measures.
    """
    figure = draw_lines(curves, axes=axes, legend=len(curves) > 1)
    axes = figure.axes[0] if axes is None else axes
    axes.margins(0.08)
    names = [(point, name) for name, line in curves.items() for point in line.points if point.name != name]
    place_names(axes, [(point.x, point.y, _named(_short(point.name, 24))) for point, _ in names])
    return figure


def draw_convergence(
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    line: Callable[[Sequence[Mapping[str, Any]], str], Line | None] = convergence,
    keys: Sequence[str] = tuple(LOGGED),
) -> dict[str, "matplotlib.figure.Figure"]:
    """One picture per logged quantity, one line per model; epoch 0 is the network before training.

    logs  one mapping per epoch, with "epoch" and any of the keys of `LOGGED`
    line  `convergence`, or `by_time` for the seconds of training instead of epochs
    """
    found = {key: {name: line(log, key) for name, log in logs.items()} for key in keys}
    return {key: draw_lines(lines) for key, lines in found.items() if any(lines.values())}


def save_figure(figure: "matplotlib.figure.Figure", path: str | Path) -> None:
    """Write `path` as PNG and as SVG, whatever suffix it has."""
    path = Path(path)
    with replacing(path.with_suffix(".png")) as partial, _without_tex(figure):
        figure.savefig(partial, format="png", dpi=160)
    write_text(path.with_suffix(".svg"), svg(figure, path.stem))


def svg(figure: "matplotlib.figure.Figure", salt: str, *, transparent: bool = False) -> str:
    """The figure as SVG text, the same text for the same figure; `salt` keeps ids apart on a page."""
    import io

    import matplotlib

    text = io.StringIO()
    with _without_tex(figure), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=transparent)
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


def panels(count: int = 1) -> "list[matplotlib.axes.Axes]":
    """Empty axes side by side in one figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * count, 3.6), layout="constrained")
    return [_styled(figure.add_subplot(1, count, place + 1)) for place in range(count)]


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


def _looks() -> "Iterator[dict[str, Any]]":
    """A colour, a dash and a marker per model; past as many as there are, the same colours with other markers."""
    for place in count():
        turn, kind = divmod(place, len(PALETTE))
        other = (kind + turn) % len(PALETTE)
        yield {"color": PALETTE[kind], "linestyle": DASHES[other], "marker": MARKERS[other], "linewidth": 1.8}


def _named(name: str) -> str:
    """A model's name in the legend, where a dollar would begin a formula and a first underscore would hide it."""
    return "\u200b" + name.replace("$", r"\$")


def _reach(found: Curve) -> float:
    """How far to draw: past all points and past the radius where the curve has all but ended."""
    standing = found.radius[found.accuracy > 0.01]
    return 1.05 * max([*(eps for _, eps, _ in found.points), *standing[-1:], 1e-6])


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

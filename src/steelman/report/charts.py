"""What every picture shows, as numbers: `draw` and the page both take them from here."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from steelman.measures.curves import LOGGED, Curve, against, attacked_norms, by_time, convergence, curve, success_rates
from steelman.measures.line import Axis, Line
from steelman.measures.robustness import default_measure, robustness_curve
from steelman.norms import Norm
from steelman.report.entry import Entry
from steelman.report.labels import headed
from steelman.table.table import Evaluation

TIMED = ("clean", "robust", "test_clean")
"""What is also drawn against the seconds of training."""
Log: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Series:
    """One model's line.

    x, y   its points, in order of x
    step   a height holds up to the next x
    marks  x, y and name of points beside the line: attacks with a fixed radius; unnamed, further points at one x
    bars   x and the ends of the interval there, an infinite one being as far as the picture goes
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    step: bool = False
    marks: tuple[tuple[float, float, str], ...] = ()
    bars: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Chart:
    """A picture before it is drawn.

    about   caption
    series  one per model, in the order of the colours; None where a model has no line, so that it keeps its colour
    reach   the end of the x axis, where both axes begin at 0 and y ends at 1
    names   x, y and text of what is written beside points, in a picture of named points
    """

    about: str
    across: Axis
    up: Axis
    series: tuple[Series | None, ...]
    reach: float | None = None
    names: tuple[tuple[float, float, str], ...] | None = None

    @property
    def shown(self) -> list[tuple[int, Series]]:
        """The lines, each with the number of its model."""
        return [(place, each) for place, each in enumerate(self.series) if each is not None]


Curves: TypeAlias = Mapping[tuple[str, Norm], Mapping[str, Curve]]


def curves_of(entries: Sequence[Entry]) -> Curves:
    """By space and norm, every model's accuracy against radius."""
    found = {}
    for space in dict.fromkeys(space for entry in entries for space in entry.spaces):
        tables = {entry.name: entry.spaces[space] for entry in entries if space in entry.spaces}
        for norm in dict.fromkeys(norm for table in tables.values() for norm in attacked_norms(table)):
            found[space, norm] = {name: curve(table, norm) for name, table in tables.items()}
    return found


def charts_of(entries: Sequence[Entry], curves: Curves) -> dict[str, Chart]:
    """Every picture that the models allow, by file name.

    robustness              clean accuracy against the worst case, for two models or more
    curve-<norm>            accuracy versus radius, per norm and space
    steps-<attack>          accuracy against the number of steps, where an attack was run with several
    success-<attack>        success rate against the radius, where an attack was run at three or more
    convergence-<quantity>  what was logged of the training, by epoch
    time-<quantity>         accuracies by seconds of training
    """
    found = {}
    models = {entry.name: entry.measures for entry in entries}
    if len(entries) > 1 and (measure := default_measure(models)):
        found["robustness"] = robustness_chart(
            {name: robustness_curve({name: each}, measure) for name, each in models.items()}
        )
    for space in dict.fromkeys(space for entry in entries for space in entry.spaces):
        tables = {entry.name: entry.spaces[space] for entry in entries if space in entry.spaces}
        suffix = "" if space == "pixels" else f"-{space}"
        for (at, norm), lines in curves.items():
            if at == space:
                found[f"curve-{norm!r}".lower() + suffix] = curves_chart(lines, space)
        for stem, of, least in (("steps", _by_steps, 2), ("success", success_rates, 4)):
            for attack, by_model in _by_attack(tables, of).items():
                if max(len(line.knots[0]) for line in by_model.values() if line) >= least:
                    found[f"{stem}-{_slug(attack)}{suffix}"] = lines_chart(by_model, attack)
    logs = {entry.name: entry.log for entry in entries}
    found |= {f"convergence-{_slug(key)}": chart for key, chart in training_charts(logs).items()}
    return found | {f"time-{_slug(key)}": chart for key, chart in training_charts(logs, by_time, TIMED).items()}


def curves_chart(curves: Mapping[str, Curve], unit: str = "pixels") -> Chart:
    """Accuracy against radius: a line per model, and a marker per bounded attack.

    Raises:
        ValueError: no curves, or of different norms.
    """
    norms = {each.norm for each in curves.values()}
    if len(norms) != 1:
        raise ValueError(f"one picture shows one norm; got {sorted(repr(norm) for norm in norms)}")
    norm = repr(norms.pop())
    reach = max(map(_reach, curves.values()))
    series = []
    for name, each in curves.items():
        marks = tuple((eps, share, attack) for attack, eps, share in each.points)
        if len(each.radius) > 1:
            x, y = np.append(each.radius, reach), np.append(each.accuracy, each.accuracy[-1])
        else:  # points only: a line through the strongest attack at each radius leads the eye
            lowest = dict(sorted(((eps, share) for eps, share, _ in marks), key=lambda at: (at[0], -at[1])))
            x, y = np.array([0.0, *lowest]), np.array([each.accuracy[0], *lowest.values()])
        series.append(Series(name, x, y, len(each.radius) > 1, marks))
    about = f"Accuracy versus {norm} radius" + ("" if unit == "pixels" else f" ({unit} space)")
    across, up = Axis(f"radius, {norm} ({unit})"), Axis("accuracy", share=True)
    return Chart(about, across, up, tuple(series), reach)


def lines_chart(lines: Mapping[str, Line | None], of: str = "") -> Chart:
    """Lines of the same quantities, one per model, with an error bar where a point has an interval.

    lines  by name; a model without a line keeps its colour, so that the others have theirs in every picture
    of     the attack of the lines, for the caption

    Raises:
        ValueError: no lines, or of different quantities.
    """
    kinds = {(line.across, line.up) for line in lines.values() if line}
    if len(kinds) != 1:
        got = sorted(f"{up.label} against {across.label}" for across, up in kinds)
        raise ValueError(f"one picture shows one pair of quantities; got {' and '.join(got) or 'none'}")
    ((across, up),) = kinds
    about = f"{headed(up.label)} by {across.label}{f', {of}' if of else ''}"
    return Chart(about, across, up, tuple(line and _series(name, line) for name, line in lines.items()))


def robustness_chart(curves: Mapping[str, Line]) -> Chart:
    """Robustness curves, every point with its name unless that is the curve's: further up and to the right is better.

    Raises:
        ValueError: no curves, or of different measures.
    """
    chart = lines_chart(curves)
    names = [
        (point.x, point.y, point.name) for name, line in curves.items() for point in line.points if point.name != name
    ]
    return Chart(chart.about, chart.across, chart.up, chart.series, names=tuple(names))


def training_charts(
    logs: Mapping[str, Log],
    line: Callable[[Log, str], Line | None] = convergence,
    keys: Sequence[str] = tuple(LOGGED),
) -> dict[str, Chart]:
    """By logged quantity, one line per model; epoch 0 is the network before training.

    logs  one mapping per epoch, with "epoch" and any of the keys of `LOGGED`
    line  `convergence`, or `by_time` for the seconds of training instead of epochs
    """
    found = {key: {name: line(log, key) for name, log in logs.items()} for key in keys}
    return {key: lines_chart(lines) for key, lines in found.items() if any(lines.values())}


def _series(name: str, line: Line) -> Series:
    x, y = line.knots
    below = tuple((point.x, point.y, "") for point in line.points if point.y < line.at(point.x))
    bars = [(p.x, p.low, p.high) for p in line.points if p.low is not None and p.high is not None]
    seen = [*y, *(end for _, *ends in bars for end in ends if math.isfinite(end))]
    within = [(x, max(low, min(seen)), min(high, max(seen))) for x, low, high in bars]
    return Series(name, x, y, marks=below, bars=tuple(within))


def _by_steps(table: Evaluation) -> dict[str, Line]:
    return against(table, "steps")


def _by_attack(
    tables: Mapping[str, Evaluation], of: Callable[[Evaluation], dict[str, Line]]
) -> dict[str, dict[str, Line | None]]:
    """Lines of every model, by the attack that they are of."""
    found = {name: of(table) for name, table in tables.items()}
    attacks = dict.fromkeys(attack for lines in found.values() for attack in lines)
    return {attack: {name: lines.get(attack) for name, lines in found.items()} for attack in attacks}


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-")


def _reach(each: Curve) -> float:
    """How far to draw: past all points and past the radius where the curve has all but ended."""
    some = each.radius[each.accuracy > 0.01]
    return 1.05 * max([*(eps for _, eps, _ in each.points), *some[-1:], 1e-6])

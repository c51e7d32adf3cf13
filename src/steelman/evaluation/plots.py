"""Pictures of curves and of training, with matplotlib's object interface: nothing global is touched."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelman.evaluation.curves import Curve, attacked_norms, curve
from steelman.evaluation.entry import Entry

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which colour-blind readers can tell apart; each goes with a dash and a marker of its own."""
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (1, 1)))
MARKERS = "osD^vP"
INK, RULE = "#1A1B1C", "#9A9B9C"
LOGGED = {
    "clean": "accuracy, held-out images",
    "robust": "accuracy under attack, held-out images",
    "generated": "accuracy under the generator, held-out images",
    "test_clean": "accuracy, test images",
    "test_rho_2": "ρ₂, test images",
    "loss": "training loss",
    "generator loss": "training loss of the generator",
}
"""What a training log may hold per epoch, and what it is called under a picture."""


def figures(entries: Sequence[Entry]) -> dict[str, "matplotlib.figure.Figure"]:
    """Every picture that the models allow, by file name: curve-<norm> per norm and space, convergence-<quantity>."""
    found = {}
    for space in dict.fromkeys(space for entry in entries for space in entry.evaluation.spaces):
        tables = {e.name: e.evaluation.only(space=space) for e in entries if space in e.evaluation.spaces}
        for norm in dict.fromkeys(norm for table in tables.values() for norm in attacked_norms(table)):
            curves = {name: curve(table, norm) for name, table in tables.items()}
            stem = f"curve-{norm!r}".lower() + ("" if space == "pixels" else f"-{space}")
            found[stem] = draw_curves(curves, space)
    logs = {entry.name: entry.log for entry in entries}
    drawn = {key.replace(" ", "-"): figure for key, figure in draw_convergence(logs).items()}
    return found | {f"convergence-{key}": figure for key, figure in drawn.items()}


def draw_curves(curves: Mapping[str, Curve], unit: str = "pixels") -> "matplotlib.figure.Figure":
    """One line per model, and a marker per bounded attack.

    Raises:
        ValueError: no curves, or of different norms.
    """
    norms = {found.norm for found in curves.values()}
    if len(norms) != 1:
        raise ValueError(f"one picture shows one norm; got {sorted(repr(norm) for norm in norms)}")
    figure, axes = _axes()
    reach = max((_reach(found) for found in curves.values()), default=1.0)
    for (name, found), look in zip(curves.items(), _looks(), strict=False):
        points = sorted(((eps, share) for _, eps, share in found.points), key=lambda point: (point[0], -point[1]))
        if len(found.radius) > 1:
            line: dict[str, Any] = look | {"marker": "", "label": _named(name)}
            axes.step([*found.radius, reach], [*found.accuracy, found.accuracy[-1]], where="post", **line)
        else:  # points only: a line through the strongest attack at each radius leads the eye
            lowest = dict(points)
            axes.plot([0, *lowest], [found.accuracy[0], *lowest.values()], markersize=5, **look, label=_named(name))
        alone: dict[str, Any] = look | {"linestyle": ""}
        axes.plot([eps for eps, _ in points], [share for _, share in points], markersize=5, **alone)
    axes.set(xlim=(0, reach), ylim=(0, 1), xlabel=f"radius, {norms.pop()!r} ({unit})", ylabel="accuracy")
    _percent(axes)
    _legend(axes)
    return figure


def draw_convergence(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, "matplotlib.figure.Figure"]:
    """One picture per logged quantity, one line per model; epoch 0 is the network before training.

    A log is one mapping per epoch, with "epoch" and any of the keys of `LOGGED`.
    """
    from matplotlib.ticker import MaxNLocator

    pictures = {}
    for key, label in LOGGED.items():
        series = {
            name: [(row["epoch"], row[key]) for row in log if row.get(key) is not None] for name, log in logs.items()
        }
        if not any(series.values()):
            continue
        figure, axes = _axes()
        # Looks go by place, so that a model without this quantity leaves the others' colours as they are.
        for (name, pairs), look in zip(series.items(), _looks(), strict=False):
            if pairs:
                axes.plot(*zip(*pairs, strict=True), markersize=3, **look, label=_named(name))
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if all(value >= 0 for pairs in series.values() for _, value in pairs):
            axes.set_ylim(bottom=0)
        if "accuracy" in label:
            _percent(axes)
        _legend(axes)
        pictures[key] = figure
    return pictures


def save_figure(figure: "matplotlib.figure.Figure", path: str | Path) -> None:
    """Write `path` as PNG and as SVG, whatever suffix it has."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=160)
    path.with_suffix(".svg").write_text(svg(figure, path.stem), encoding="utf-8")


def svg(figure: "matplotlib.figure.Figure", salt: str, *, transparent: bool = False) -> str:
    """The figure as SVG text, the same text for the same figure; `salt` keeps ids apart on a page."""
    import io

    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=transparent)
    return text.getvalue()


def _axes() -> "tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=INK, labelsize=10, length=3)
    axes.xaxis.label.set(color=INK, size=10.5)
    axes.yaxis.label.set(color=INK, size=10.5)
    axes.grid(color=RULE, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _looks() -> "cycle[dict[str, Any]]":
    looks = [
        {"color": color, "linestyle": dash, "marker": marker, "linewidth": 1.8}
        for color, dash, marker in zip(PALETTE, DASHES, MARKERS, strict=True)
    ]
    return cycle([dict(look) for look in looks])


def _named(name: str) -> str:
    """A model's name in the legend, where a dollar would begin a formula and a first underscore would hide it."""
    return "\u200b" + name.replace("$", r"\$")


def _reach(found: Curve) -> float:
    """How far to draw: past all points and past the radius where the curve has all but ended."""
    standing = found.radius[found.accuracy > 0.01]
    return 1.05 * max([*(eps for _, eps, _ in found.points), *standing[-1:], 1e-6])


def _percent(axes: "matplotlib.axes.Axes") -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))


def _legend(axes: "matplotlib.axes.Axes") -> None:
    axes.legend(frameon=False, fontsize=10, labelcolor=INK, handlelength=3)

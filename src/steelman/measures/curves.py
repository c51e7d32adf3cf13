"""Curves: accuracy against radius, against an attack's settings, against epochs and seconds of training.

Every curve is a pure function of tables or of training logs. `steelman.report` draws them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from steelman.measures.accuracies import accuracy, clean_accuracy, right_within, robust_accuracy, success_rate
from steelman.measures.distances import smallest_norms
from steelman.measures.line import Axis, Line, Point
from steelman.measures.measure import Measure, Unmeasured, share
from steelman.measures.rows import rows
from steelman.norms import NORMS, Norm
from steelman.table.records import shown
from steelman.table.schema import ROUNDING
from steelman.table.table import Evaluation

LOGGED = {
    "clean": "accuracy, held-out images",
    "robust": "accuracy under attack, held-out images",
    "generated": "accuracy under the generator, held-out images",
    "test_clean": "accuracy, test images",
    "test_rho_2": "ρ₂, test images",
    "loss": "training loss",
    "generator loss": "training loss of the generator",
}
"""What a training log may hold per epoch, and its label in a picture."""
SETTINGS = {"steps": "steps", "restarts": "restarts", "queries": "queries", "eps": "radius"}
"""The label of an attack's setting in a picture."""
Family: TypeAlias = tuple[str, frozenset[tuple[str, str]]]
"""An attack's kind, and the settings that are held fixed along a line."""


@dataclass(frozen=True)
class Curve:
    """The share of images whose smallest adversarial perturbation is longer than r, for every r.

    A step function: from `radius[i]` up to the next radius it is `accuracy[i]`; `radius[0]` is 0. `points` holds name,
    eps and accuracy of each bounded attack in this norm, which are on the curve or above it.
    """

    norm: Norm
    radius: np.ndarray
    accuracy: np.ndarray
    points: tuple[tuple[str, float, float], ...]

    def at(self, radius: float) -> float:
        """The accuracy at one radius, at least 0."""
        return float(self.accuracy[np.searchsorted(self.radius, radius, side="right") - 1])

    def __repr__(self) -> str:
        falls = int((self.accuracy > self.accuracy[0] / 2).sum())  # the first radius at which it is half or less
        half = self.radius[min(falls, len(self.radius) - 1)]
        return f"Curve({self.norm}, accuracy {100 * self.accuracy[0]:.1f} %, more than half of that up to {half:.4g})"

    def _repr_png_(self) -> bytes | None:
        from steelman.measures.notebooks import png

        marks = [(eps, share, None, None) for _, eps, share in self.points]
        return png(self.radius.tolist(), self.accuracy.tolist(), (f"radius, {self.norm}", "accuracy"), True, marks)


def curve(evaluation: Evaluation, norm: Norm, attacks: Sequence[str] | None = None) -> Curve:
    """Accuracy versus radius, from each image's smallest perturbation over `attacks`: the robust accuracy at every r.

    By default over all attacks in the table, of whatever norm, so that no bounded attack's point is below the line;
    where no attack minimises this norm, only the points are left, and the curve is its value at 0. It bounds the true
    robust accuracy from above: a better attack can only lower it.

    The point of a bounded attack is its accuracy; of one that was run only on images that were still correct, the share
    that neither it nor an earlier attack has broken within its radius.

    Of a random model it is the mean of the probabilities of being right, at 200 of the radii; where draws make it rise,
    it stays level.
    """
    own = {name: each for name, each in rows(evaluation).attacks.items() if each.norm == repr(norm)}
    bounds, known = {name: each.eps for name, each in own.items() if each.bounded}, _known(evaluation)
    if attacks is None:
        attacks = known if len(bounds) < len(own) else []
    points = tuple(
        (name, eps, _accuracy_within(evaluation, name, norm, eps, known))
        for name, eps in bounds.items()
        if name in known
    )
    if not attacks:
        return Curve(norm, np.zeros(1), np.array([clean_accuracy(evaluation).value]), points)
    if rows(evaluation).random:
        sizes = [rows(evaluation)[name].size(repr(norm)) for name in attacks]
        return Curve(norm, *_of_probabilities(evaluation, norm, attacks, [*sizes, [*bounds.values()]]), points)
    smallest = smallest_norms(evaluation, norm, attacks)
    for eps in bounds.values():  # a perturbation of exactly eps may read a little longer
        smallest = np.where((smallest > eps) & (smallest <= eps * ROUNDING), eps, smallest)
    smallest = np.sort(smallest)
    radius = np.unique(np.concatenate([[0.0], smallest[np.isfinite(smallest)]]))
    return Curve(norm, radius, 1 - np.searchsorted(smallest, radius, side="right") / len(smallest), points)


def _of_probabilities(
    evaluation: Evaluation, norm: Norm, attacks: Sequence[str], sizes: Sequence[Sequence[float] | np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Radii, and a random model's robust accuracy within each."""
    found = np.concatenate([np.asarray(each, float) for each in sizes])
    every = np.unique(np.append(found[np.isfinite(found)], 0.0))
    radius = np.unique(np.append(every[np.linspace(0, len(every) - 1, 200).astype(int)], sizes[-1]))
    right = [right_within(evaluation, norm, each, attacks).mean() for each in radius]
    return radius, np.minimum.accumulate(right)


def _known(evaluation: Evaluation) -> list[str]:
    """The attacks of which every image is known: it was attacked, or an earlier attack had already broken it."""
    table = rows(evaluation)

    def known(name: str) -> bool:
        try:
            return bool(table.chosen([name]))
        except Unmeasured:
            return False

    return [name for name in table.attacks if known(name)]


def _accuracy_within(evaluation: Evaluation, attack: str, norm: Norm, eps: float, known: Sequence[str]) -> float:
    try:
        return accuracy(evaluation, attack).value
    except Unmeasured:
        return robust_accuracy(evaluation, norm, eps, known[: known.index(attack) + 1]).value


def attacked_norms(evaluation: Evaluation) -> list[Norm]:
    """The norms in which an attack was run."""
    names = {record.norm for record in evaluation.records}
    return [norm for name, norm in NORMS.items() if name in names]


def against(
    evaluation: Evaluation, setting: str, measure: Callable[[Evaluation, str], Measure] = accuracy
) -> dict[str, Line]:
    """Accuracy against one setting of an attack, such as "steps", "restarts" or "eps".

    A line for each two or more bounded attacks of one kind that differ in nothing else, under the kind and the settings
    by which it differs from the other lines of that kind. A setting that follows from another one (a step length that
    PGD takes from its steps, say) is not held fixed; set it where it is to be. Attacks without an accuracy of their
    own, since they skipped images that were already broken, are left out.

    measure  of one attack, by its name
    """
    lines: dict[Family, list[Point]] = {}
    for name, attack in rows(evaluation).attacks.items():
        settings = dict(attack.record.settings or {})
        value = settings.pop(setting, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not attack.bounded:
            continue
        try:
            measured = measure(evaluation, name)
        except Unmeasured:
            continue
        kind = settings.pop("kind", "")
        fixed = {**settings, "reference": attack.record.reference}
        family = (kind, frozenset((name, shown(value)) for name, value in fixed.items()))
        lines.setdefault(family, []).append(Point(float(value), measured.value, measured.low, measured.high, name))
    lines = {family: points for family, points in lines.items() if len({point.x for point in points}) > 1}
    across = Axis(SETTINGS.get(setting, setting))
    up = Axis(measure.__name__.replace("_", " "), share=True)
    return {_label(family, list(lines)): Line(tuple(points), across, up) for family, points in lines.items()}


def success_rates(evaluation: Evaluation) -> dict[str, Line]:
    """The share of images that are wrong under an attack, against its radius; at 0 the natural errors.

    Deep Defense's and others' "FGS curve": lower is better. The lines are those of `against(evaluation, "eps")`.
    """
    natural = share(rows(evaluation).wrong)
    start = Point(0.0, natural.value, natural.low, natural.high, "clean")
    lines = against(evaluation, "eps", success_rate)
    return {name: replace(line, points=(start, *line.points)) for name, line in lines.items()}


def _label(family: Family, others: Sequence[Family]) -> str:
    """A line's kind, and the settings that not all lines of its kind share."""
    kind, settings = family
    alike = frozenset.intersection(*(other for same, other in others if same == kind))
    return ", ".join([kind, *(f"{name}={value}" for name, value in sorted(settings - alike))])


def convergence(log: Sequence[Mapping[str, Any]], key: str) -> Line | None:
    """A logged quantity after every epoch; epoch 0 is the network before training. None where it was not logged.

    log  one mapping per epoch, with "epoch"; `Run.log` and `History.log` are such
    key  any of `LOGGED`
    """
    points = [Point(float(line["epoch"]), float(line[key])) for line in log if _finite(line.get(key))]
    return Line(tuple(points), Axis("epoch"), _axis(key)) if points else None


def by_time(log: Sequence[Mapping[str, Any]], key: str) -> Line | None:
    """A logged quantity against the seconds that training had taken by then: YOPO's accuracy-time curve.

    Only training counts: not measurements after an epoch, nor training or preparation before the first one. None where
    the quantity or the time was not logged.
    """
    points, spent = [], 0.0
    for line in log:
        if line["epoch"] and line.get("seconds") is None:
            return None
        spent += line.get("seconds") or 0.0
        if _finite(line.get(key)):
            points.append(Point(spent, float(line[key]), name=f"epoch {line['epoch']}"))
    return Line(tuple(points), Axis("training time, s"), _axis(key)) if len(points) > 1 else None


def _finite(value: float | None) -> bool:
    """Whether a value was logged and can be drawn; the loss of a training that diverged cannot."""
    return value is not None and bool(np.isfinite(value))


def _axis(key: str) -> Axis:
    label = LOGGED.get(key, key)
    return Axis(label, share="accuracy" in label)

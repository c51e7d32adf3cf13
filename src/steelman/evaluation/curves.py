"""Accuracy as a function of the radius, for all radii at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steelman.evaluation.measures import accuracy, clean_accuracy, smallest_norms
from steelman.evaluation.table import Evaluation
from steelman.norms import L0, L1, L2, Linf, Norm

NORMS = {repr(norm): norm for norm in (Linf, L2, L1, L0)}


@dataclass(frozen=True)
class Curve:
    """The share of images whose smallest adversarial perturbation is longer than r, for every r.

    A step function: from `radius[i]` up to the next radius it is `accuracy[i]`; `radius[0]` is 0. `points` holds name,
    eps and accuracy of each bounded attack in this norm.
    """

    norm: Norm
    radius: np.ndarray
    accuracy: np.ndarray
    points: tuple[tuple[str, float, float], ...]

    def at(self, radius: float) -> float:
        """The accuracy at one radius, at least 0."""
        return float(self.accuracy[np.searchsorted(self.radius, radius, side="right") - 1])


def curve(evaluation: Evaluation, norm: Norm, attacks: Sequence[str] | None = None) -> Curve:
    """Accuracy versus radius, from each image's smallest perturbation over `attacks`.

    By default over the minimal attacks that minimise this norm; where there are none, only the points are left, and the
    curve is its value at 0. It bounds the true robust accuracy from above: a better attack can only lower it.
    """
    own = {name: evaluation.only(name) for name in evaluation.attacks}
    own = {name: rows for name, rows in own.items() if rows["norm"][0] == repr(norm)}
    if attacks is None:
        attacks = [name for name, rows in own.items() if np.isnan(rows["eps"][0])]
    points = tuple(
        (name, float(rows["eps"][0]), accuracy(evaluation, name).value)
        for name, rows in own.items()
        if not np.isnan(rows["eps"][0])
    )
    if not attacks:
        return Curve(norm, np.zeros(1), np.array([clean_accuracy(evaluation).value]), points)
    smallest = np.sort(smallest_norms(evaluation, norm, attacks))
    radius = np.unique(np.concatenate([[0.0], smallest[np.isfinite(smallest)]]))
    return Curve(norm, radius, 1 - np.searchsorted(smallest, radius, side="right") / len(smallest), points)


def attacked_norms(evaluation: Evaluation) -> list[Norm]:
    """The norms in which anything was attacked."""
    found = set(evaluation.table["norm"].unique().to_pylist())
    return [norm for name, norm in NORMS.items() if name in found]

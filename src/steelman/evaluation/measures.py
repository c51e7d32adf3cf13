"""Numbers with 95 % intervals, every one a pure function of the table.

Measures are of one space; a table of two is cut by `evaluation.only(space=...)` first. An image is *right under an
attack* when it was classified right before and after it: a natural error counts as an error under every attack.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from steelman.evaluation.table import CLEAN, Evaluation
from steelman.norms import Norm

ROUNDING = 1 + 1e-6
"""Distances are differences of float32 images: one of exactly eps may read this much longer."""


@dataclass(frozen=True)
class Measure:
    """A number with the ends of its 95 % interval, over `count` images.

    A `kind` "share" is a share of images, between 0 and 1; a "length" has the units of the space; a "ratio" has none.
    `failures` counts the images among them for which a minimal attack found nothing.
    """

    value: float
    low: float
    high: float
    count: int
    kind: Literal["share", "length", "ratio"] = "share"
    failures: int = 0

    def __str__(self) -> str:
        if self.kind == "share":
            return f"{100 * self.value:.2f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        failed = f", {self.failures} of {self.count} failed" if self.failures else ""
        return f"{self.value:.4g} [{self.low:.3g}, {self.high:.3g}]{failed}"


def share(flags: np.ndarray) -> Measure:
    """The share of True, with Wilson's interval (E. B. Wilson, JASA 22, 1927).

    Raises:
        ValueError: no images.
    """
    from scipy.stats import binomtest

    _some(flags)
    interval = binomtest(int(flags.sum()), len(flags)).proportion_ci(0.95, method="wilson")
    return Measure(float(flags.mean()), float(interval.low), float(interval.high), len(flags))


def bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], Any] = np.mean,
    *,
    kind: Literal["length", "ratio"] = "length",
    failures: int = 0,
    resamples: int = 1000,
) -> Measure:
    """A statistic of per-image values, with the percentile bootstrap interval of images drawn with replacement.

    The draws are seeded, so the same table gives the same interval. Ends are values that resamples took, never
    interpolated, so that infinite distances may stand among the values.

    Raises:
        ValueError: no images.
    """
    _some(values)
    draws = np.random.default_rng(0)
    found = [statistic(values[draws.integers(len(values), size=len(values))]) for _ in range(resamples)]
    low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
    return Measure(float(statistic(values)), float(low), float(high), len(values), kind, failures)


def _some(values: np.ndarray) -> None:
    if len(values) == 0:
        raise ValueError("a measure needs at least one image; there is none that it speaks of")


def clean_accuracy(evaluation: Evaluation) -> Measure:
    """The share of unattacked images that are classified right."""
    rows = _one(evaluation, CLEAN)
    return share(rows["prediction"] == rows["label"])


def accuracy(evaluation: Evaluation, attack: str) -> Measure:
    """The share of images that are right under one attack."""
    return share(_right(_one(evaluation, attack)))


def worst_case(evaluation: Evaluation, attacks: Sequence[str] | None = None) -> Measure:
    """The share of images that are right under every one of the attacks; by default, of the bounded ones."""
    return share(np.all([_right(_one(evaluation, name, whole=True)) for name in _chosen(evaluation, attacks)], axis=0))


def minimum(evaluation: Evaluation, attacks: Sequence[str] | None = None) -> Measure:
    """The lowest of the accuracies, the column `Min` of papers; never below `worst_case`, image by image."""
    return min((accuracy(evaluation, name) for name in _chosen(evaluation, attacks)), key=lambda found: found.value)


def rho_2(evaluation: Evaluation, attack: str | None = None) -> Measure:
    """Deep Defense's robustness: the mean of |delta|_2 / |x|_2 over all images.

    `attack` is a minimal attack run as `FromPrediction`, by default the table's only one. Images that are wrong, and
    those on which the attack did not converge (`failures`), count with what they have, as in the authors' code.
    """
    rows = _from_prediction(evaluation, attack)
    return bootstrap(rows["l2"] / (rows["x_l2"] + 1e-12), kind="ratio", failures=int((~rows["success"]).sum()))


def l_2(evaluation: Evaluation, attack: str | None = None) -> Measure:
    """The mean of |delta|_2 over all images: `rho_2` without its denominator."""
    rows = _from_prediction(evaluation, attack)
    return bootstrap(rows["l2"], failures=int((~rows["success"]).sum()))


def mean_norm(
    evaluation: Evaluation, attack: str, norm: Norm | None = None, *, include_natural_errors: bool = False
) -> Measure:
    """The mean size of a minimal attack's perturbations, over the images on which it succeeded.

    `norm` is the attack's own by default. Images that were wrong to begin with had not to be attacked and take no part
    (unless the attack left the prediction); with `include_natural_errors` each is a success of size 0, as in PGN's
    rho_cw (its code). `count` is of the images that take part, `failures` of those that stood.
    """
    sizes, success = _attacked(evaluation, attack, norm, include_natural_errors)
    found = bootstrap(sizes[success])
    return Measure(found.value, found.low, found.high, len(sizes), "length", int((~success).sum()))


def median_norm(
    evaluation: Evaluation, attack: str, norm: Norm | None = None, *, include_natural_errors: bool = False
) -> Measure:
    """The median size of a minimal attack's perturbations, an image on which it failed being infinitely far.

    Which images take part is as for `mean_norm`.
    """
    sizes, success = _attacked(evaluation, attack, norm, include_natural_errors)
    return bootstrap(np.where(success, sizes, np.inf), np.median, failures=int((~success).sum()))


def smallest_norms(evaluation: Evaluation, norm: Norm, attacks: Sequence[str] | None = None) -> np.ndarray:
    """The size in `norm` of each image's smallest known adversarial perturbation, in order of the images.

    The minimum over the rows of `attacks` (default: all) that were misclassified; 0 for images that are wrong to begin
    with, infinity where nothing was found.
    """
    clean = _one(evaluation, CLEAN)
    smallest = np.where(clean["prediction"] == clean["label"], np.inf, 0.0)
    for name in evaluation.attacks if attacks is None else attacks:
        rows = _one(evaluation, name, whole=True)
        found = rows["prediction"] != rows["label"]
        smallest = np.minimum(smallest, np.where(found, rows[repr(norm).lower()], np.inf))
    return smallest


def mean_margin(evaluation: Evaluation, norm: Norm, at_most: float, attacks: Sequence[str] | None = None) -> Measure:
    """The mean of `smallest_norms`, none above `at_most`: on held-out images, by what MMA training chooses its epoch.

    Infinite distances count as `at_most`, as do those of bounded attacks that failed; `failures` are these.
    """
    smallest = smallest_norms(evaluation, norm, attacks)
    return bootstrap(np.minimum(smallest, at_most), failures=int((~np.isfinite(smallest)).sum()))


def robust_accuracy(evaluation: Evaluation, norm: Norm, eps: float, attacks: Sequence[str] | None = None) -> Measure:
    """The share of images for which nothing in the table lies within `eps`: the worst case over all of its attacks.

    A bounded attack of a smaller radius counts, and so does a minimal attack that came nearer than `eps`.
    """
    return share(smallest_norms(evaluation, norm, attacks) > eps * ROUNDING)


def threats(evaluation: Evaluation) -> dict[tuple[str, float], list[str]]:
    """The bounded attacks, by what they were allowed: (norm, eps)."""
    found: dict[tuple[str, float], list[str]] = {}
    for name in evaluation.attacks:
        rows = evaluation.only(name)
        norm, eps = rows["norm"][0], float(rows["eps"][0])
        if norm is not None and not np.isnan(eps):
            found.setdefault((norm, eps), []).append(name)
    return found


def measures(evaluation: Evaluation) -> dict[str, Measure]:
    """Every measure that the table allows, under its name; in a space other than pixels, with the space."""
    found: dict[str, Measure] = {}
    for space in evaluation.spaces:
        suffix = "" if space == "pixels" else f" ({space})"
        found |= {name + suffix: measure for name, measure in _of_one_space(evaluation.only(space=space)).items()}
    return found


def summary(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """`measures` as plain values for JSON, where None stands for an infinite number."""
    return plain(measures(evaluation))


def plain(found: dict[str, Measure]) -> dict[str, dict[str, Any]]:
    """Measures as plain values for JSON, where None stands for an infinite number."""
    return {
        name: {key: None if value in (np.inf, -np.inf) else value for key, value in asdict(measure).items()}
        for name, measure in found.items()
    }


def _of_one_space(evaluation: Evaluation) -> dict[str, Measure]:
    found = {"clean accuracy": clean_accuracy(evaluation)}
    bounded = _bounded(evaluation)
    for name in bounded:
        found[f"accuracy, {name}"] = accuracy(evaluation, name)
    for (norm, eps), names in threats(evaluation).items():
        if len(names) > 1:
            found[f"worst case, {norm} {eps:.4g}"] = worst_case(evaluation, names)
            found[f"Min, {norm} {eps:.4g}"] = minimum(evaluation, names)
    for name in (name for name in evaluation.attacks if name not in bounded):
        rows, norm = evaluation.only(name), _own_norm(evaluation, name)
        if rows["away_from"][0] == "prediction" and norm == "L2":
            found[f"rho_2, {name}"] = rho_2(evaluation, name)
            found[f"l_2, {name}"] = l_2(evaluation, name)
        else:
            sizes, success = _attacked(evaluation, name, None)
            if success.any():
                found[f"mean {norm}, {name}"] = mean_norm(evaluation, name)
            if len(sizes):
                found[f"median {norm}, {name}"] = median_norm(evaluation, name)
    return found


def _one(evaluation: Evaluation, attack: str, *, whole: bool = False) -> Evaluation:
    """One attack's rows, in order of the images.

    Raises:
        ValueError: there is no such attack, or it was run in two spaces; `whole`: or not on all images.
    """
    rows = evaluation.only(attack)
    if len(rows.spaces) > 1:
        raise ValueError(
            f"the table has two spaces, {' and '.join(rows.spaces)}; take evaluation.only(space=...) first"
        )
    if whole and len(rows) < evaluation.images:
        raise ValueError(f"{attack} was run on {len(rows)} of {evaluation.images} images, so it cannot be combined")
    return Evaluation(rows.table.sort_by("image"))


def _right(rows: Evaluation) -> np.ndarray:
    return (rows["clean_prediction"] == rows["label"]) & (rows["prediction"] == rows["label"])


def _bounded(evaluation: Evaluation) -> list[str]:
    return [name for name in evaluation.attacks if not np.isnan(evaluation.only(name)["eps"][0])]


def _chosen(evaluation: Evaluation, attacks: Sequence[str] | None) -> Sequence[str]:
    chosen = _bounded(evaluation) if attacks is None else attacks
    if not chosen:
        raise ValueError("a worst case needs at least one bounded attack; the table has none")
    return chosen


def _from_prediction(evaluation: Evaluation, attack: str | None) -> Evaluation:
    if attack is None:
        found = [name for name in evaluation.attacks if evaluation.only(name)["away_from"][0] == "prediction"]
        if len(found) != 1:
            raise ValueError(
                "rho_2 and l_2 are of an attack that left the prediction, FromPrediction(DeepFool()); "
                + (f"name one of {', '.join(found)}" if found else "the table has none")
            )
        attack = found[0]
    rows = _one(evaluation, attack)
    if (rows["away_from"] != "prediction").any():
        raise ValueError(f"{attack} left the label; rho_2 and l_2 need FromPrediction({attack})")
    return rows


def _attacked(
    evaluation: Evaluation, attack: str, norm: Norm | None, include_natural_errors: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and successes on the images that had to be attacked, and on those that were wrong where these are asked
    for."""
    rows = _one(evaluation, attack)
    sizes = rows[(_own_norm(evaluation, attack) if norm is None else repr(norm)).lower()]
    to_attack = (rows["clean_prediction"] == rows["label"]) | (rows["away_from"] == "prediction")
    if include_natural_errors:
        return np.where(to_attack, sizes, 0.0), rows["success"] | ~to_attack
    return sizes[to_attack], rows["success"][to_attack]


def _own_norm(evaluation: Evaluation, attack: str) -> str:
    """The norm that an attack keeps small; L2 for those that have none of their own."""
    return evaluation.only(attack)["norm"][0] or "L2"

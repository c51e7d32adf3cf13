"""Two models on the same images, image by image: a paired test settles more than two intervals do."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from steelman.measures.accuracies import right_within
from steelman.measures.chance import mid_p
from steelman.measures.distances import smallest_norms
from steelman.measures.intervals import of_mean
from steelman.measures.measure import Measure, Unmeasured, mean
from steelman.measures.rows import mean_of, rows
from steelman.norms import Norm
from steelman.table.records import CLEAN
from steelman.table.table import Evaluation


@dataclass(frozen=True)
class Paired:
    """How much better `ours` is than `theirs` on the same images.

    `under` names the attack. `difference` is ours less theirs, with its 95 % interval. `better` counts the images on
    which ours does better, `worse` those on which theirs does. `p_value` is the probability of a more uneven split, and
    half of that of one as uneven, were both as likely: the sign test by mid-p, which for shares is McNemar's. Its exact
    form counts the whole of the latter; it finds a difference where there is none in far fewer than 5 % of cases, and
    misses more of those that there are.

    Reference: Morten W. Fagerland, Stian Lydersen and Petter Laake, "The McNemar test for binary matched-pairs data:
    mid-p and asymptotic are better than exact conditional", BMC Medical Research Methodology 13, 2013.
    """

    under: str
    ours: Measure
    theirs: Measure
    difference: Measure
    better: int
    worse: int
    p_value: float

    @property
    def _p(self) -> str:
        return f"p {'=' if self.p_value >= 1e-4 else '<'} {max(self.p_value, 1e-4):.2g}"

    def sentence(self, ours: str, theirs: str) -> str:
        """One sentence, with the models' names."""
        low, high = self.difference.low, self.difference.high
        if self.difference.kind == "share":
            return (
                f"Under {self.under}, {ours} keeps {100 * self.ours.value:.1f} % of {self.ours.count} images right and "
                f"{theirs} {100 * self.theirs.value:.1f} %, a difference of {100 * self.difference.value:+.1f} points "
                f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f}): {self.better} images are right only with "
                f"{ours}, {self.worse} only with {theirs} (mid-p McNemar {self._p})."
            )
        return (
            f"The mean of {self.under} is {self.ours.value:.4g} for {ours} and {self.theirs.value:.4g} for {theirs}"
            f" over {self.ours.count} images, a difference of {self.difference.value:+.3g} (95 % interval {low:+.3g} "
            f"to {high:+.3g}): {self.better} images are further from an error with {ours}, {self.worse} with {theirs} "
            f"(mid-p sign test {self._p})."
        )

    def __str__(self) -> str:
        return self.sentence("ours", "theirs")

    def _repr_html_(self) -> str:
        from steelman.measures.notebooks import table_html

        line = (str(self.ours), str(self.theirs), str(self.difference), f"{self.better} : {self.worse}", self._p)
        return table_html(
            f"under {self.under}", ("ours", "theirs", "difference", "better : worse", "paired test"), [line]
        )


def paired(ours: Evaluation, theirs: Evaluation, under: str | tuple[Norm, float] = CLEAN) -> Paired:
    """The difference of two models' accuracies on the same images.

    under  "clean" (default), an attack's name, or a norm and a radius: then an image is right where no attack broke it
           within the radius (`robust_accuracy`), of the attacks that were run on both models

    The interval is Newcombe's, from the two Wilson intervals and the correlation of the pairs; the p-value is of the
    binomial distribution, so that the two need not agree to the last digit. Where a model is random, images count by
    their probabilities of being right, and the interval is of the mean difference of these (`intervals.of_mean`).

    Reference: Robert G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based
    on paired data", Statistics in Medicine 17, 1998, method 10.

    Raises:
        ValueError: the tables are of different images; the attack was not the same in both.
        Unmeasured: as for `accuracy` and `robust_accuracy`; no attack that was run on both.
    """
    same_images(ours, theirs)
    if not isinstance(under, str):
        name, names = f"{under[0]} {under[1]:.4g}", _common(ours, theirs)
        right = [right_within(table, *under, names) for table in (ours, theirs)]
    elif under == CLEAN:
        name, right = "no attack", [rows(table).right() for table in (ours, theirs)]
    else:
        name, right = under, [rows(table).right([rows(table)[under].whole()]) for table in (ours, theirs)]
        _check_same_attack(ours, theirs, under)
    first, second = map(mean_of, right)
    if np.isin(right, (0, 1)).all():
        ends = _newcombe(first, second, float(np.mean(right[0] * right[1])))
    else:
        ends = of_mean(right[0] - right[1], (-1.0, 1.0))
    difference = Measure(first.value - second.value, *ends, first.count, "share")
    return Paired(name, first, second, difference, *_sign_test(*right))


def paired_norms(
    ours: Evaluation,
    theirs: Evaluation,
    norm: Norm,
    attacks: Sequence[str] | None = None,
    *,
    at_most: float = float("inf"),
) -> Paired:
    """The difference of two models' smallest adversarial perturbations (`smallest_norms`) on the same images.

    attacks  default: all that were run on both models
    at_most  distances above count as this, as do those of images for which nothing was found; by default there must be
             no such images

    The interval is of the mean difference, image by image (`intervals.of_mean`).

    Raises:
        ValueError: the tables are of different images; an attack was not the same in both; at_most not above 0.
        Unmeasured: no attack that was run on both; nothing was found for an image, and there is no `at_most`.
    """
    if not at_most > 0:
        raise ValueError(f"at_most is the largest distance that counts, above 0; got {at_most}")
    same_images(ours, theirs)
    names = _common(ours, theirs, attacks)
    sizes = [np.minimum(smallest_norms(table, norm, names), at_most) for table in (ours, theirs)]
    failed = ~np.isfinite(sizes[0]) | ~np.isfinite(sizes[1])
    if failed.any():
        raise Unmeasured(
            f"nothing was found for {int(failed.sum())} of {len(failed)} images; give at_most, the distance with which "
            "such an image counts"
        )
    first, second = (mean(each, highest=at_most) for each in sizes)
    difference = mean(sizes[0] - sizes[1], scale=float(np.max(sizes)))
    name = f"the smallest {norm} perturbation by {', '.join(names)}"
    return Paired(name, first, second, difference, *_sign_test(sizes[0], sizes[1]))


def same_images(ours: Evaluation, theirs: Evaluation) -> None:
    """Raises ValueError where two tables differ in places, labels or pixels of images; names the first such image."""
    first, second = rows(ours), rows(theirs)
    if not np.array_equal(first.images, second.images):
        odd = np.setxor1d(first.images, second.images)
        raise ValueError(
            f"the tables are of different images: {len(odd)} are in only one of them (image {odd[0]} first); "
            "take those that both have by evaluation.of_images(...)"
        )
    hashed = (first.pixels != 0) & (second.pixels != 0)
    differ = (first.label != second.label) | (hashed & (first.pixels != second.pixels))
    if ours.space == theirs.space == "pixels":
        differ |= ~hashed & ~np.isclose(first.x_l2, second.x_l2, rtol=1e-5, atol=0.0, equal_nan=True)
    if differ.any():
        raise ValueError(
            f"the tables are of different images: {int(differ.sum())} differ in label or pixels, image "
            f"{first.images[differ][0]} first; evaluate both models on the same data"
        )


def _common(ours: Evaluation, theirs: Evaluation, names: Sequence[str] | None = None) -> list[str]:
    """The attacks of these names, by default all that were run on both models, each the same in both tables."""
    names = [name for name in ours.attacks if name in theirs.attacks] if names is None else list(names)
    if not names:
        raise Unmeasured("no attack was run on both models, so only their clean accuracies can be compared")
    for name in names:
        _check_same_attack(ours, theirs, name)
    return names


def _check_same_attack(ours: Evaluation, theirs: Evaluation, name: str) -> None:
    both = [record for table in (ours, theirs) if (record := rows(table)[name].record).kind]
    if len({record.method for record in both}) > 1:
        calls = " and ".join(record.call for record in both)
        raise ValueError(f"{name} is not the same attack in both tables: {calls}")


def _sign_test(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int, float]:
    """How many images are better with ours, how many with theirs, and how likely so uneven a split is by chance."""
    better, worse = int((ours > theirs).sum()), int((ours < theirs).sum())
    return better, worse, mid_p(better, worse)


def _newcombe(ours: Measure, theirs: Measure, both: float) -> tuple[float, float]:
    """The ends of the interval of ours - theirs, where `both` is the share of images on which both are right."""
    count, p, q = ours.count, ours.value, theirs.value
    spread = sqrt(p * (1 - p) * q * (1 - q))
    covariance = both - p * q
    covariance = max(covariance - 1 / (2 * count), 0.0) if covariance > 0 else covariance
    phi = covariance / spread if spread else 0.0

    def reach(one: float, other: float) -> float:
        return sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))

    low = p - q - reach(p - ours.low, theirs.high - q)
    return low, p - q + reach(ours.high - p, q - theirs.low)

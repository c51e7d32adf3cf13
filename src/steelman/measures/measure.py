"""A number with its interval, and two ways to compute one."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np

DRAWN_AT_ONCE = 2**16
"""Values in memory; more is not faster."""

Kind: TypeAlias = Literal["share", "length", "ratio"]


class Unmeasured(ValueError):
    """A number that a table cannot give; the message has the reason."""


@dataclass(frozen=True)
class Measure:
    """A number with the ends of its 95 % interval, over `count` images.

    A `kind` "share" is a share of images, between 0 and 1; a "length" has the units of the space; a "ratio" has none,
    or units of its own. `failures` counts the images among them for which an attack found nothing.
    """

    value: float
    low: float
    high: float
    count: int
    kind: Kind = "share"
    failures: int = 0

    def over(self, failed: np.ndarray) -> "Measure":
        """The same number, where the images that `failed` are counted too."""
        return replace(self, count=len(failed), failures=int(failed.sum()))

    def __str__(self) -> str:
        if self.kind == "share":
            return f"{100 * self.value:.2f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        failed = f", {self.failures} of {self.count} failed" if self.failures else ""
        return f"{self.value:.4g} [{self.low:.3g}, {self.high:.3g}]{failed}"


def share(flags: np.ndarray) -> Measure:
    """The share of True, with Wilson's interval (E. B. Wilson, JASA 22, 1927).

    Raises:
        Unmeasured: no images.
    """
    from scipy.stats import binomtest

    _some(flags)
    interval = binomtest(int(flags.sum()), len(flags)).proportion_ci(0.95, method="wilson")
    return Measure(float(flags.mean()), float(interval.low), float(interval.high), len(flags))


def bootstrap(
    values: np.ndarray,
    statistic: Literal["mean", "median"] = "mean",
    *,
    kind: Kind = "length",
    failures: int = 0,
    resamples: int = 1000,
    weights: np.ndarray | None = None,
) -> Measure:
    """The mean or median of per-image values, with the percentile bootstrap interval: images drawn with replacement.

    With `weights`, the number of things that an image's value is the sum of, the mean over all of these; the images are
    drawn, so that things of one image need not be independent.

    The draws are seeded, so the same table gives the same interval. Ends are values that resamples took, never
    interpolated, so that values may be infinite.

    Raises:
        Unmeasured: no images.
    """
    _some(values)
    if weights is not None:
        drawn = [(values[each].sum(axis=1), weights[each].sum(axis=1)) for each in _drawn(len(values), resamples)]
        sums, counts = (np.concatenate(each) for each in zip(*drawn, strict=True))
        resampled = sums[counts > 0] / counts[counts > 0]
        value = values.sum() / weights.sum()
    elif statistic == "mean":
        resampled = np.concatenate([values[drawn].mean(axis=1) for drawn in _drawn(len(values), resamples)])
        value = values.mean()
    else:
        ordered = np.sort(values)
        resampled = ordered[_median_ranks(len(values), resamples)].mean(axis=1)
        value = np.median(values)
    low, high = np.quantile(resampled, [0.025, 0.975], method="inverted_cdf")
    return Measure(float(value), float(low), float(high), len(values), kind, failures)


@lru_cache(maxsize=16)
def _median_ranks(count: int, resamples: int) -> np.ndarray:
    """For each resample, the two ranks between which its median lies; they depend on the number of values alone."""
    middle = [(count - 1) // 2, count // 2]
    return np.concatenate([np.partition(drawn, middle, axis=1)[:, middle] for drawn in _drawn(count, resamples)])


def _drawn(count: int, resamples: int) -> Iterator[np.ndarray]:
    """The places of each resample's values, always the same; several resamples at a time where they are small."""
    draws, several = np.random.default_rng(0), max(1, DRAWN_AT_ONCE // count)
    for start in range(0, resamples, several):
        yield draws.integers(count, size=(min(several, resamples - start), count))


def plain(measures: dict[str, Measure]) -> dict[str, dict[str, Any]]:
    """Measures as plain values for JSON, in which None is an infinite number."""
    return {
        name: {key: None if value in (np.inf, -np.inf) else value for key, value in asdict(measure).items()}
        for name, measure in measures.items()
    }


def _some(values: np.ndarray) -> None:
    if len(values) == 0:
        raise Unmeasured("a measure needs at least one image; the table has none for it")

"""A number with its interval, and three ways to compute one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any, Literal, TypeAlias

import numpy as np

from steelman.measures.intervals import of_mean, of_median, of_shares, wilson

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

    def _repr_html_(self) -> str:
        return f"{self}"


def share(flags: np.ndarray) -> Measure:
    """The share of True, with Wilson's interval (`intervals.wilson`).

    Raises:
        Unmeasured: no images.
    """
    _some(flags)
    value = float(flags.mean())
    return Measure(value, *wilson(value, float(len(flags))), len(flags))


def mean(
    values: np.ndarray,
    *,
    kind: Kind = "length",
    failures: int = 0,
    weights: np.ndarray | None = None,
    highest: float = inf,
    scale: float | None = None,
) -> Measure:
    """The mean of per-image values, with an interval for another sample of images.

    kind     "share": values between 0 and 1, by Wilson's interval of the effective number of images
             (`intervals.of_shares`). "length" (default) and "ratio": by Hall's interval (`intervals.of_mean`)
    weights  the number of things that an image's value is the sum of: then the mean over all of these. Their images are
             drawn, so that things of one image need not be independent: the interval is that of the linearised ratio,
             whose value by image is mean + (value - mean weight) / mean weight
    highest  what no value can be above (default: nothing)
    scale    values are differences of numbers up to this size, and their mean may be below 0 though none of them is

    Of values of which none is below 0, the mean is taken not to be either.

    Raises:
        Unmeasured: no images.
    """
    _some(values)
    if kind == "share":
        return Measure(float(values.mean()), *of_shares(values), len(values), kind, failures)
    each = values
    if weights is not None:
        ratio, own = values.sum() / weights.sum(), weights > 0
        each = ratio + (values - ratio * weights)[own] / weights[own].mean()
    within = (0.0 if scale is None and (values >= 0).all() else -inf, highest)
    return Measure(float(each.mean()), *of_mean(each, within, scale), len(values), kind, failures)


def median(values: np.ndarray, *, failures: int = 0) -> Measure:
    """The median of per-image lengths, of which some may be infinite, with an exact interval (`intervals.of_median`).

    Raises:
        Unmeasured: no images.
    """
    _some(values)
    return Measure(float(np.median(values)), *of_median(values), len(values), "length", failures)


def plain(measures: dict[str, Measure]) -> dict[str, dict[str, Any]]:
    """Measures as plain values for JSON, in which None is an infinite number."""
    return {
        name: {key: None if value in (np.inf, -np.inf) else value for key, value in asdict(measure).items()}
        for name, measure in measures.items()
    }


def from_plain(found: Mapping[str, Any]) -> Measure:
    """A measure of those that `plain` gave."""
    values: dict[str, Any] = {key: inf if value is None else value for key, value in found.items()}
    return Measure(**values)


def _some(values: np.ndarray) -> None:
    if len(values) == 0:
        raise Unmeasured("a measure needs at least one image; the table has none for it")

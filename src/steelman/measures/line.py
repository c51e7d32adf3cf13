"""Points joined by straight lines: the curves over settings, epochs, seconds or models."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """One of a line's two quantities: its label, and whether it is a share between 0 and 1."""

    label: str
    share: bool = False


@dataclass(frozen=True)
class Point:
    """A point of a line, with the ends of y's interval where there is one, and the name of its attack or model."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Line:
    """Points in order of x, joined by straight lines.

    Of several points at one x the line goes through the highest.

    Raises:
        ValueError: no points, or one that is not finite.
    """

    points: tuple[Point, ...]
    across: Axis
    up: Axis

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError(f"a line of {self.up.label} against {self.across.label} needs at least one point")
        for point in self.points:
            if not np.isfinite([point.x, point.y]).all():
                raise ValueError(f"{point.name or 'a point'} is at ({point.x:g}, {point.y:g}), which cannot be drawn")
        ordered = tuple(sorted(self.points, key=lambda point: (point.x, -point.y)))
        object.__setattr__(self, "points", ordered)  # frozen

    @property
    def knots(self) -> tuple[np.ndarray, np.ndarray]:
        """The x and y through which the line goes, each x once."""
        x, first = np.unique([point.x for point in self.points], return_index=True)
        return x, np.array([self.points[place].y for place in first])

    def at(self, x: float) -> float:
        """y on the straight line between the two nearest points.

        Raises:
            ValueError: x is not between the first and the last point.
        """
        xs, ys = self.knots
        if not xs[0] <= x <= xs[-1]:
            raise ValueError(
                f"{self.across.label} {x:.4g} lies outside of the points, which reach from {xs[0]:.4g} to {xs[-1]:.4g}"
            )
        return float(np.interp(x, xs, ys))

    def _repr_png_(self) -> bytes | None:
        from steelman.measures.notebooks import png

        marks = [(point.x, point.y, point.low, point.high) for point in self.points]
        x, y = self.knots
        return png(x.tolist(), y.tolist(), (self.across.label, self.up.label), marks=marks)


@dataclass(frozen=True)
class Comparison:
    """Two lines at the same x, over all of the x that both have."""

    x: tuple[float, ...]
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def differences(self) -> tuple[float, ...]:
        """Ours minus theirs."""
        return tuple(ours - theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def mean(self) -> float:
        """The mean difference over the x that both have: the area between the lines, divided by its width."""
        differences, widths = np.array(self.differences), np.diff(self.x)
        if not widths.sum():
            return self.differences[0]
        return float(widths @ (differences[1:] + differences[:-1]) / 2 / widths.sum())


def at_equal(ours: Line, theirs: Line) -> Comparison:
    """Two lines at the same x: two robustness curves at equal clean accuracy.

    At every x at which either has a point, and at the ends of what both have; between two of these both are straight,
    and so is their difference. It has no interval: a line between two trained models is an estimate of a third one that
    was not trained.

    Raises:
        ValueError: they are not of the same quantities, or have no x in common.
    """
    if (ours.across, ours.up) != (theirs.across, theirs.up):
        raise ValueError(
            f"{ours.up.label} against {ours.across.label} cannot be compared with {theirs.up.label} against "
            f"{theirs.across.label}"
        )
    (xs, _), (others, _) = ours.knots, theirs.knots
    low, high = max(xs[0], others[0]), min(xs[-1], others[-1])
    if low > high:
        raise ValueError(
            f"no {ours.across.label} in common: one has {xs[0]:.4g} to {xs[-1]:.4g}, the other {others[0]:.4g} to "
            f"{others[-1]:.4g}; more values are needed between"
        )
    x = np.unique([low, high, *(each for each in (*xs, *others) if low <= each <= high)]).tolist()

    def at_all(line: Line) -> tuple[float, ...]:
        return tuple(map(line.at, x))

    return Comparison(tuple(x), at_all(ours), at_all(theirs))

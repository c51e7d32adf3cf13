"""Factors that change during training: `[training.schedule]` of a recipe, or a defence's or adversary's schedule."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from steelman.ranges import Checked, Factor, Fraction, FractionAbove0, FractionBelow1


@dataclass(frozen=True)
class Schedule(Checked, ABC):
    """A factor on a learning rate or a radius, from how much of the training is done, 0 to 1."""

    @abstractmethod
    def __call__(self, progress: float) -> float: ...


@dataclass(frozen=True)
class Constant(Schedule):
    """No change."""

    def __call__(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from `start` to `end`, which is reached at the fraction `by` of the training, and kept."""

    start: Factor = 0.0
    end: Factor = 1.0
    by: FractionAbove0 = 1.0

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * min(progress / self.by, 1.0)


@dataclass(frozen=True)
class Steps(Schedule):
    """Times `factor` at each of the fractions `at` of the training."""

    at: tuple[Fraction, ...] = (0.5, 0.75)
    factor: Factor = 0.1

    def __call__(self, progress: float) -> float:
        # Slightly early: 4 of 5 epochs may be just below .8 by rounding.
        return self.factor ** passed(progress, self.at)


@dataclass(frozen=True)
class Stages(Schedule):
    """One of several factors: the first until the fraction at[0] of the training, the second until at[1], and so on.

    factors  one more than `at` has fractions; default a tenth, then 1
    at       rising
    """

    factors: tuple[Factor, ...] = (0.1, 1.0)
    at: tuple[Fraction, ...] = (0.1,)

    def __post_init__(self) -> None:
        if len(self.factors) != len(self.at) + 1 or list(self.at) != sorted(self.at):
            raise ValueError(f"Stages needs rising fractions and one more factor; got {self.at} and {self.factors}")

    def __call__(self, progress: float) -> float:
        return self.factors[passed(progress, self.at)]


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 down to 0, after a linear rise over the fraction `warmup`."""

    warmup: FractionBelow1 = 0.0

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


def passed(progress: float, at: tuple[float, ...]) -> int:
    """How many of these shares of the training are over."""
    return sum(progress >= fraction - 1e-9 for fraction in at)

"""Optimisers and schedules as data: what a recipe's `[training.optimiser]` and `[training.schedule]` say."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Optimiser(ABC):
    """Builds a torch optimiser; `lr` is the rate that a schedule multiplies."""

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer: ...


@dataclass(frozen=True)
class SGD(Optimiser):
    """Stochastic gradient descent with momentum (`torch.optim.SGD`). Weight decay is added to the gradient."""

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@dataclass(frozen=True)
class Adam(Optimiser):
    """Adam (`torch.optim.Adam`). Weight decay is added to the gradient."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Schedule(ABC):
    """The factor on the learning rate, from how much of the training is done, 0 to 1."""

    @abstractmethod
    def __call__(self, progress: float) -> float: ...


@dataclass(frozen=True)
class Constant(Schedule):
    """No change."""

    def __call__(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Steps(Schedule):
    """Times `factor` at each of the fractions `at` of the training."""

    at: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        if not all(0 <= fraction <= 1 for fraction in self.at):
            raise ValueError(f"Steps are at fractions of the training, 0 to 1; got {self.at}")

    def __call__(self, progress: float) -> float:
        # A hair early: 4 of 5 epochs may come out just below .8.
        return self.factor ** sum(progress >= fraction - 1e-9 for fraction in self.at)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 down to 0, after a linear rise over the fraction `warmup`."""

    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a fraction of the training, 0 to below 1; got {self.warmup}")

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))

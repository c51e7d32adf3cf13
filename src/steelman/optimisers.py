"""Optimisers as data: what a recipe's `[training.optimiser]` says."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from steelman.ranges import check_amounts


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

    def __post_init__(self) -> None:
        check_amounts("SGD", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        if self.nesterov and not self.momentum > 0:
            raise ValueError(f"nesterov needs a momentum above 0; got {self.momentum}")

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

    def __post_init__(self) -> None:
        check_amounts("Adam", lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        if max(self.betas) >= 1:
            raise ValueError(f"Adam needs betas below 1; got {self.betas}")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

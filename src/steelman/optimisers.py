"""Optimisers as data: the table `[training.optimiser]` of a recipe."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from torch import nn

from steelman.ranges import Checked, Factor


@dataclass(frozen=True)
class Optimiser(Checked, ABC):
    """Builds a torch optimiser; `lr` is the rate that a schedule multiplies."""

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer: ...


@dataclass(frozen=True)
class SGD(Optimiser):
    """Stochastic gradient descent with momentum (`torch.optim.SGD`). Weight decay is added to the gradient."""

    lr: Factor = 0.1
    momentum: Factor = 0.9
    weight_decay: Factor = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum > 0:
            raise ValueError(f"nesterov needs a momentum above 0; got {self.momentum}")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@dataclass(frozen=True)
class UnevenSGD(SGD):
    """`SGD` with other rates for biases and for the last layer, as MatConvNet's and Caffe's examples have them.

    bias  factor on the rate of every bias, default 2 (Caffe). Parameters of one dimension count as biases
    last  factor on that of the last layer, its bias included, default 1
    """

    bias: Factor = 2.0
    last: Factor = 1.0

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        everything = list(parameters)
        final = max((place for place, each in enumerate(everything) if each.ndim > 1), default=0)
        groups = [
            {
                "params": [each],
                "lr": self.lr * (self.bias if each.ndim < 2 else 1) * (self.last if place >= final else 1),
            }
            for place, each in enumerate(everything)
        ]
        return torch.optim.SGD(
            groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )


@dataclass(frozen=True)
class Adam(Optimiser):
    """Adam (`torch.optim.Adam`). Weight decay is added to the gradient."""

    lr: Factor = 1e-3
    betas: Annotated[tuple[float, float], Interval(ge=0, lt=1)] = (0.9, 0.999)
    weight_decay: Factor = 0.0

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

"""Objectives with a penalty that depends on the weights alone."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.game import GameWrapper
from steelman.defences.objective import Objective
from steelman.types import Batch


class WeightPenalty(GameWrapper[Objective], Objective):
    """An objective plus `penalty(model)`, which no batch enters."""

    objective: Objective

    @abstractmethod
    def penalty(self, model: nn.Module) -> Tensor:
        """A scalar, with its weight."""

    def setup(self, model: nn.Module, data: Dataset) -> Any:
        self.penalty(model)  # refuses a network without such weights
        return replace(self, objective=self.objective.setup(model, data))  # pyright: ignore

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.objective(model, batch) + self.penalty(model)

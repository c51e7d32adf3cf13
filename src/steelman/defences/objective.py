"""What most defences are: a loss to descend. A weighted sum of them is one too."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steelman.types import Batch


class Objective(ABC):
    """`objective(model, batch)` is a scalar, the mean over the batch; descend it with any optimiser.

    It leaves the model's mode, flags and `.grad` and the batch as they were, and never sees an optimiser or a process.
    """

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Sum(Objective):
    """Weighted sum of objectives, for the combinations that papers call orthogonal.

    sum_i weights_i * objectives_i(model, batch). Beware of counting the clean cross-entropy twice: DeepDefense has it.

    objectives  two or more, each evaluated on the same batch
    weights     one each, default all 1

    Cost: that of its parts.
    Reference: Ziang Yan, Yiwen Guo and Changshui Zhang, "Deep Defense: training DNNs with improved adversarial
    robustness", NeurIPS 2018, section 4.3 ("Combined", with FGS examples).
    """

    objectives: tuple[Objective, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        if not self.objectives:
            raise ValueError("Sum needs at least one objective")
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(self.weights))
            if len(self.weights) != len(self.objectives):
                raise ValueError(f"Sum has {len(self.objectives)} objectives but {len(self.weights)} weights")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        weights = self.weights or (1.0,) * len(self.objectives)
        terms = [weight * objective(model, batch) for weight, objective in zip(weights, self.objectives, strict=True)]
        return torch.stack(terms).sum()

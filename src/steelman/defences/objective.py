"""What most defences are: a loss to descend. A weighted sum of them is one too."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.game import Around, Average, Descend, Game, Step
from steelman.types import CLASSIFIER, Batch


class Objective(Game):
    """`objective(model, batch)` is a scalar, the mean over the batch; descend it with any optimiser.

    It leaves the model's mode, flags and `.grad` and the batch as they were, and never sees an optimiser or a process.
    """

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Batch) -> Tensor: ...

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Average | Step]:
        yield Descend(self(nets[CLASSIFIER], batch), nets[CLASSIFIER].parameters())
        yield Step()


@dataclass(frozen=True)
class MicroBatches(Around[Objective]):
    """An objective on a few images at a time, to save memory: one descent for each part of a batch, and one step.

    The losses of the parts are weighted by their share of the batch, so their sum is the batch's mean.
    """

    objective: Objective
    size: int

    def begin(self, model: nn.Module, data: Dataset) -> "MicroBatches":
        return replace(self, objective=self.objective.begin(model, data))

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Average | Step]:
        net = nets[CLASSIFIER]
        for start in range(0, len(batch), self.size):
            part = batch[start : start + self.size]
            yield Descend(self.objective(net, part) * (len(part) / len(batch)), net.parameters())
        yield Step()


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

    def begin(self, model: nn.Module, data: Dataset) -> "Sum":
        return replace(self, objectives=tuple(each.begin(model, data) for each in self.objectives))

    @property
    def memory(self) -> nn.Module | None:
        kept = [each.memory for each in self.objectives if each.memory is not None]
        return nn.ModuleList(kept) if kept else None

    @property
    def report(self) -> dict[str, float]:
        return {name: value for each in self.objectives for name, value in each.report.items()}

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        weights = self.weights or (1.0,) * len(self.objectives)
        terms = [weight * objective(model, batch) for weight, objective in zip(weights, self.objectives, strict=True)]
        return torch.stack(terms).sum()

"""What most defences are: a loss to descend. A weighted sum of them is one too."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.batching import cut, least_images
from steelman.defences.game import Descend, Game, GameWrapper, Step, Updates
from steelman.types import CLASSIFIER, Batch


class Objective(Game):
    """`objective(model, batch)` is a scalar, the mean over the batch; descend it with any optimiser.

    It leaves the batch and the model's mode, flags and `.grad` as they were, and never touches an optimiser.
    """

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Batch) -> Tensor: ...

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        yield Descend(self(nets[CLASSIFIER], batch), nets[CLASSIFIER].parameters())
        yield Step()


@dataclass(frozen=True)
class MicroBatches(GameWrapper[Objective]):
    """An objective on a few images at a time, to save memory: one descent for each part of a batch, and one step.

    The losses of the parts are weighted by their share of the batch, so their sum is the batch's mean. Where the
    network cannot run on one image, a last part of one image is joined to the part before.

    Raises:
        ValueError: parts of one image, of a network that cannot run on one.
    """

    objective: Objective
    size: int
    least: int = field(default=1, init=False, repr=False, compare=False)
    """How few images a part may have."""

    def setup(self, model: nn.Module, data: Dataset) -> "MicroBatches":
        made = replace(self, objective=self.objective.setup(model, data))
        least = least_images(model, data) if self.objective.batch_statistics else 1
        if self.size < least:
            raise ValueError(
                f"batch normalisation in {type(model).__name__} cannot learn from one image at a time: micro_batch has "
                f"to be at least {least}; got {self.size}"
            )
        object.__setattr__(made, "least", least)
        return made

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        net = nets[CLASSIFIER]
        for places in cut(torch.arange(len(batch)), self.size, self.least):
            part = batch[int(places[0]) : int(places[-1]) + 1]
            yield Descend(self.objective(net, part) * (len(part) / len(batch)), net.parameters())
        yield Step()


@dataclass(frozen=True)
class Sum(Objective):
    """Weighted sum of objectives, for the combinations that papers call orthogonal.

    sum_i weights_i * objectives_i(model, batch). Beware of counting the clean cross-entropy twice: DeepDefense has it.

    objectives  one or more, each evaluated on the same batch
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

    def setup(self, model: nn.Module, data: Dataset) -> "Sum":
        return replace(self, objectives=tuple(each.setup(model, data) for each in self.objectives))

    @property
    def batch_statistics(self) -> bool:
        return any(each.batch_statistics for each in self.objectives)

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


def refuse_one_class(method: str, classes: int) -> None:
    """Raises ValueError for a model or data of a single class."""
    if classes < 2:
        raise ValueError(f"{method} needs at least two classes, with a logit for each; got {classes}")

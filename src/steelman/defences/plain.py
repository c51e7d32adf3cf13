"""No defence."""

from dataclasses import dataclass

from torch import Tensor, nn

from steelman.defences.objective import Objective
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.types import Batch


@dataclass(frozen=True)
class Plain(Objective):
    """Ordinary training: the mean cross-entropy on clean images. "Reference", "Naive" or "Clean" in papers.

    Cost: 1 forward and 1 backward pass.
    Reference: none needed; Deep Defense's "Clean" is this, started from a trained model.
    """

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(logits_of(model, batch.x), batch.y).mean()

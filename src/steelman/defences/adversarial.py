"""Objectives on images that an attack has made."""

from abc import abstractmethod

from torch import Tensor, nn

from steelman.defences.objective import Objective
from steelman.types import Batch


class Adversarial(Objective):
    """An objective in two steps: craft images (and labels, where the method makes them), then a loss in which what was
    crafted is constant.

    They are apart so that one crafted batch can serve several losses: `AWP` reads it at two sets of weights.
    """

    @abstractmethod
    def craft(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch with everything that the loss needs and that is constant in it."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, made: Batch) -> Tensor:
        """A scalar, the mean over the batch; `made` is what `craft` has made of `batch`."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.loss(model, batch, self.craft(model, batch))

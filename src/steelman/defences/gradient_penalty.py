"""What defences share that differentiate gradients."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.objective import Objective
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.types import Batch, Images, Logits, PerImage


def refuse_compiled(model: nn.Module) -> None:
    """Raises ValueError for a network with a part from torch.compile, through which PyTorch cannot differentiate
    twice."""
    for module in model.modules():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise ValueError(
                "this defence differentiates gradients, which a compiled network does not support: pass the network "
                "before torch.compile"
            )


def refuse_one_class(logits: Logits) -> None:
    """Raises ValueError for logits of a single class, whose cross-entropy is always 0."""
    if logits.shape[1] < 2:
        raise ValueError("the model has one class, which no image can leave; give it a logit for each of two or more")


class GradientPenalty(Objective):
    """Cross-entropy, and `weight` times a penalty on how the network changes with the pixels: one forward pass for
    both."""

    weight: float

    def setup(self, model: nn.Module, data: Dataset) -> "GradientPenalty":
        refuse_compiled(model)
        return self

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        refuse_compiled(model)
        x = batch.x.detach().clone().requires_grad_()
        logits = logits_of(model, x)
        refuse_one_class(logits)
        losses = cross_entropy(logits, batch.y)
        return losses.mean() + self.weight * self.penalty(x, logits, losses, batch)

    @abstractmethod
    def penalty(self, x: Images, logits: Logits, losses: PerImage, batch: Batch) -> Tensor:
        """A scalar with a graph, from logits and losses that hang on the leaf `x`."""


def check_weight(weight: float) -> None:
    """Raises ValueError for a weight that is negative or not finite."""
    if not 0 <= weight < float("inf"):
        raise ValueError(f"weight is a finite number of at least 0; got {weight}")


def slope(of: PerImage, x: Images) -> Images:
    """The gradient of each image's number with respect to that image, with a graph."""
    (gradient,) = torch.autograd.grad(of.sum(), x, create_graph=True)
    return gradient


def squared(gradient: Images) -> PerImage:
    return gradient.flatten(1).square().sum(1)

"""What defences share that differentiate gradients."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.objective import Objective, refuse_one_class
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.randomness import Draws
from steelman.types import Batch, Images, Logits, PerImage

_PROJECTIONS = 801
"""Purpose for `Draws.split`: the vectors on which an image's logits are projected."""


class GradientPenalty(Objective):
    """Cross-entropy, and `weight` times a penalty on how the network changes with the pixels, from one forward pass."""

    weight: float

    def setup(self, model: nn.Module, data: Dataset) -> "GradientPenalty":
        refuse_compiled(model)
        return self

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        refuse_compiled(model)
        x = batch.x.detach().clone().requires_grad_()
        logits = logits_of(model, x)
        refuse_one_class(type(self).__name__, logits.shape[1])
        losses = cross_entropy(logits, batch.y)
        return losses.mean() + self.weight * self.penalty(x, logits, losses, batch)

    @abstractmethod
    def penalty(self, x: Images, logits: Logits, losses: PerImage, batch: Batch) -> Tensor:
        """A scalar with a graph, from logits and losses that are functions of the leaf `x`."""


def refuse_compiled(model: nn.Module) -> None:
    """Raises ValueError for a network with a part from torch.compile, which PyTorch cannot differentiate twice."""
    for module in model.modules():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise ValueError(
                "this defence differentiates gradients, which a compiled network does not support: pass the network "
                "before torch.compile"
            )


def slope(of: PerImage, x: Images) -> Images:
    """The gradient of each image's number with respect to that image, with a graph."""
    (gradient,) = torch.autograd.grad(of.sum(), x, create_graph=True)
    return gradient


def squared(gradient: Images) -> PerImage:
    return gradient.flatten(1).square().sum(1)


def projected(x: Images, logits: Logits, batch: Batch, count: int, *, centred: bool = False) -> PerImage:
    """|grad_x <v, Z(x)>|_2^2, the mean over `count` random unit vectors v of each image; `centred` ones sum to 0.

    Its expectation is |J|_F^2 / K, and with centred vectors |J - mean of its rows|_F^2 / (K - 1).
    """
    draws = Draws.start(batch.seeds, len(x), x.device).split(_PROJECTIONS)
    squares = []
    for place in range(count):
        vector = draws.split(place).normal((logits.shape[1],), logits.dtype)
        if centred:
            vector = vector - vector.mean(1, keepdim=True)
        vector = vector / vector.norm(dim=1, keepdim=True)
        squares.append(squared(slope((logits * vector).sum(1), x)))
    return torch.stack(squares).mean(0)

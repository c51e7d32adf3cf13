"""Approximate gradients of filters that have none."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from steelman.forward import lent

Filter = Callable[[Tensor], Tensor]


class BPDA(nn.Module):
    """Backward pass differentiable approximation: the true filter forwards, a differentiable stand-in backwards.

    y = g(x), and dL/dx = (dh/dx)^T dL/dy with h close to g. Use it in place of the filter:
    `nn.Sequential(BPDA(jpeg), network)` is attacked like any other model, also under `EOT` where g is random. Gradients
    of gradients work in the same way, for defences that penalise them.

    filter    g, any callable from images to the network's input
    stand_in  h, differentiable, of the same output shape; None (default) is the identity, for filters with g(x) near x

    Cost: g forwards; backwards one forward and one backward pass of h, or none for the identity.
    Reference: Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 4.1.

    Raises:
        ValueError: the outputs of g and h (the identity: the images) differ in shape.
    """

    def __init__(self, filter: Filter, stand_in: Filter | None = None) -> None:
        super().__init__()
        self.filter, self.stand_in = filter, stand_in

    def forward(self, x: Tensor) -> Tensor:
        return _Through.apply(x, self.filter, self.stand_in)


def with_gradient(filter: nn.Module) -> nn.Module:
    """A filter through which gradients pass: itself, or in `BPDA` with its stand-in."""
    if isinstance(filter, BPDA) or getattr(filter, "differentiable", False):
        return filter
    return BPDA(filter, getattr(filter, "stand_in", None))


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, filter: Filter, stand_in: Filter | None) -> Tensor:
        y = filter(lent(x.detach()))
        if stand_in is None and y.shape != x.shape:
            raise ValueError(
                f"the filter makes {tuple(y.shape)} of {tuple(x.shape)}, so the identity cannot stand in for it in the "
                "backward pass; give stand_in, a differentiable approximation"
            )
        ctx.save_for_backward(x)
        ctx.stand_in = stand_in
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        if ctx.stand_in is None:
            return gradient, None, None
        (x,) = ctx.saved_tensors
        again = torch.is_grad_enabled()  # the gradient will be differentiated itself
        with torch.enable_grad():
            x = x if again else x.detach().requires_grad_()
            near = ctx.stand_in(x)
        if near.shape != gradient.shape:
            raise ValueError(
                f"stand_in gives {tuple(near.shape)} where the filter gives {tuple(gradient.shape)}; they must agree"
            )
        return torch.autograd.grad(near, x, gradient, create_graph=again)[0], None, None

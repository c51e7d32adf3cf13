"""By hand: PGD as others write it and with its step as one CUDA graph, and the passes of an attack alone."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, step: float, steps: int) -> Tensor:
    """As torchattacks writes it: the mean loss, the perturbation clamped to the ball and the image to the box."""
    x_adv = x.clone().detach()
    for _ in range(steps):
        x_adv.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        x_adv = x_adv.detach() + step * slope.sign()
        delta = torch.clamp(x_adv - x, min=-eps, max=eps)
        x_adv = torch.clamp(x + delta, min=0, max=1).detach()
    return x_adv


class GraphedPGD:
    """A step's forward pass, backward pass and arithmetic are captured once, and replayed: one launch for each step.

    It holds for batches of the shape that it was made with. On a CPU the same step runs without a graph.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, step: float) -> None:
        self.model, self.eps, self.step = model, eps, step
        self.x, self.y = x.clone(), y.clone()
        self.low, self.high = torch.empty_like(x), torch.empty_like(x)
        self._begin(x, y)
        self.graph: torch.cuda.CUDAGraph | None = None
        if x.is_cuda:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):
                    self._take()
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._take()

    def __call__(self, x: Tensor, y: Tensor, steps: int) -> Tensor:
        self._begin(x, y)
        for _ in range(steps):
            if self.graph is None:
                self._take()
            else:
                self.graph.replay()
        return self.x.clone()

    def _begin(self, x: Tensor, y: Tensor) -> None:
        self.x.copy_(x)
        self.y.copy_(y)
        torch.clamp(x - self.eps, 0, 1, out=self.low)
        torch.clamp(x + self.eps, 0, 1, out=self.high)

    def _take(self) -> None:
        with torch.enable_grad():
            x = self.x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(self.model(x), self.y, reduction="sum"), x)
        self.x.copy_(torch.clamp(slope.sign_().mul_(self.step).add_(x.detach()), self.low, self.high))


def compiled_pgd(model: nn.Module, eps: float, step: float, **how: Any) -> Callable[[Tensor, Tensor, int], Tensor]:
    """The whole step through `torch.compile`, which fuses its arithmetic and, where asked to, captures graphs."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y, reduction="sum")

    slope = torch.func.grad(loss)

    def take(x: Tensor, y: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.clamp(x + step * slope(x, y).sign(), low, high)

    fast = torch.compile(take, **how)

    def run(x: Tensor, y: Tensor, steps: int) -> Tensor:
        low, high, x_adv = (x - eps).clamp_(0, 1), (x + eps).clamp_(0, 1), x
        for _ in range(steps):
            x_adv = fast(x_adv, y, low, high).clone()  # a graph's output is overwritten by its next replay
        return x_adv

    return run


class Counting(nn.Module):
    """A network that notes of each of its passes how many images it has, and how often it goes backwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.passes = model, list[list[int]]()

    def forward(self, x: Tensor) -> Tensor:
        logits, noted = self.model(x), [len(x), 0]
        self.passes.append(noted)
        if logits.requires_grad:
            logits.register_hook(lambda slope: noted.__setitem__(1, noted[1] + 1))
        return logits

    def again(self, x: Tensor) -> None:
        """The same passes, on the first of the images."""
        for images, backwards in self.passes:
            here = x[:images].detach().requires_grad_(backwards > 0)
            with torch.set_grad_enabled(backwards > 0):
                value = self.model(here).logsumexp(1).sum()
            for rest in reversed(range(backwards)):
                torch.autograd.grad(value, here, retain_graph=rest > 0)

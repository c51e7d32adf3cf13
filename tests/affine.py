"""Affine classifiers, whose smallest and worst perturbations are known, and other small models for testing attacks."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steelman.norms import L2, Linf, Norm


@dataclass(frozen=True)
class Affine:
    """Images, the classes that the model gives them, and logits `images @ weight.T + bias`."""

    weight: Tensor
    bias: Tensor
    x: Tensor
    y: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T.to(x.dtype) + self.bias.to(x.dtype)

    def slopes(self, row: int, rival: int) -> tuple[Tensor, float]:
        """Gradient and value of Z_rival - Z_label at an image."""
        label = int(self.y[row])
        weight = self.weight[rival] - self.weight[label]
        return weight, float(weight @ self.x[row].flatten() + self.bias[rival] - self.bias[label])

    def rivals(self, row: int) -> list[int]:
        return [k for k in range(len(self.bias)) if k != int(self.y[row])]

    def nearest(self, norm: Norm) -> Tensor:
        """The norm of each image's smallest perturbation, without a box: |f_k| / |w_k|_q for the best rival k."""
        return self._sizes(norm).amin(1)

    def nearest_rival(self, norm: Norm) -> Tensor:
        return self._sizes(norm).argmin(1)

    def _sizes(self, norm: Norm) -> Tensor:
        """The norm of the smallest perturbation from each image to each class; infinite for its own."""
        dual = {L2: 2.0, Linf: 1.0}[norm]
        sizes = torch.full((len(self.x), len(self.bias)), torch.inf, dtype=self.weight.dtype)
        for row in range(len(self.x)):
            for rival in self.rivals(row):
                weight, gap = self.slopes(row, rival)
                sizes[row, rival] = -gap / float(weight.norm(p=dual))
        return sizes

    def nearest_in_box(self, norm: Norm) -> Tensor:
        """The same within [0, 1]: by Lagrange, clip(lambda w, -x, 1 - x), lambda by bisection; infinite if none."""
        smallest = []
        for row in range(len(self.x)):
            x, sizes = self.x[row].flatten(), [float("inf")]
            for weight, gap in (self.slopes(row, k) for k in self.rivals(row)):
                direction = weight if norm is L2 else weight.sign()
                low, high = 0.0, 1e6
                if float(((x + high * direction).clamp(0, 1) - x) @ weight) + gap < 0:
                    continue
                for _ in range(60):
                    middle = (low + high) / 2
                    enough = float(((x + middle * direction).clamp(0, 1) - x) @ weight) + gap >= 0
                    low, high = (low, middle) if enough else (middle, high)
                sizes.append(float(norm.size(((x + high * direction).clamp(0, 1) - x)[None])))
            smallest.append(min(sizes))
        return torch.tensor(smallest, dtype=self.weight.dtype)

    def worst_margin(self, norm: Norm, eps: float) -> Tensor:
        """The largest max_k Z_k - Z_label within ball and box (for L2, where the box is not active)."""
        worst = []
        for row in range(len(self.x)):
            x, margins = self.x[row].flatten(), []
            for weight, gap in (self.slopes(row, k) for k in self.rivals(row)):
                step = weight.sign() * eps if norm is Linf else weight / weight.norm() * eps
                moved = (x + step).clamp(0, 1) if norm is Linf else x + step
                margins.append(gap + float(weight @ (moved - x)))
            worst.append(max(margins))
        return torch.tensor(worst, dtype=self.weight.dtype)


def affine(seed: int, *, images: int = 24, classes: int = 10, edge: bool = False, scale: float = 1.0) -> Affine:
    """Random, double; images near mid-grey, or two thirds of their pixels at 0 or 1. Labels are the predictions."""
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(classes, 24, generator=generator, dtype=torch.float64)
    x = torch.rand(images, 1, 4, 6, generator=generator, dtype=torch.float64)
    x = (3 * x - 1).clamp(0, 1) if edge else 0.4 + 0.2 * x
    bias = 0.1 * scale * torch.randn(classes, generator=generator, dtype=torch.float64) - weight.sum(1) / 2
    return Affine(weight, bias, x, (x.flatten(1) @ weight.T + bias).argmax(1))


class SmallNet(nn.Module):
    """A convolution, batch normalisation, dropout, a hidden layer: everything whose state an attack could disturb."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.normalisation = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.hidden = nn.Linear(96, 32, bias=False)
        self.output = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.normalisation(self.convolution(x)).relu()).flatten(1)
        return 8 * self.output((10 * self.hidden(x)).tanh())


def small_net(dtype: torch.dtype = torch.float64, classes: int = 10) -> SmallNet:
    """In evaluation mode, with running statistics that are not the default ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet(classes).to(dtype)
        for _ in range(5):
            net(torch.rand(16, 1, 4, 6, dtype=dtype))
    return net.eval()


def images(count: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Images of which a third of the pixels are at the ends of the box."""
    generator = torch.Generator().manual_seed(seed)
    return (1.5 * torch.rand(count, 1, 4, 6, generator=generator, dtype=dtype) - 0.25).clamp(0, 1)

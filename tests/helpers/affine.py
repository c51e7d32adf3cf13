"""Affine classifiers, whose smallest and worst perturbations are known, and other small models for testing attacks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steelman.norms import L0, L1, L2, Linf, Norm


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
        dual = {L2: 2.0, Linf: 1.0, L1: float("inf")}[norm]
        return self._each(lambda x, weight, gap: -gap / float(weight.norm(p=dual)))

    def nearest_in_box(self, norm: Norm) -> Tensor:
        """The same within [0, 1]; infinite if there is none."""
        return self._sizes_in_box(norm).amin(1)

    def nearest_rival_in_box(self, norm: Norm) -> Tensor:
        return self._sizes_in_box(norm).argmin(1)

    def _sizes_in_box(self, norm: Norm) -> Tensor:
        return self._each(lambda x, weight, gap: _smallest_in_box(norm, x, weight, -gap))

    def _each(self, size: Callable[[Tensor, Tensor, float], float]) -> Tensor:
        """`size` of every image, slope and gap towards every rival; infinite for the label."""
        sizes = torch.full((len(self.x), len(self.bias)), torch.inf, dtype=self.weight.dtype)
        for row in range(len(self.x)):
            for rival in self.rivals(row):
                sizes[row, rival] = size(self.x[row].flatten(), *self.slopes(row, rival))
        return sizes

    def worst_margin(self, norm: Norm, eps: float) -> Tensor:
        """The largest max_k Z_k - Z_label within ball and box."""
        worst = []
        for row in range(len(self.x)):
            x = self.x[row].flatten()
            slopes = [self.slopes(row, k) for k in self.rivals(row)]
            worst.append(max(gap + largest_gain(norm, x, weight, eps) for weight, gap in slopes))
        return torch.tensor(worst, dtype=self.weight.dtype)


def _gains(x: Tensor, weight: Tensor) -> Tensor:
    """The most that each pixel can add to `weight @ x` within [0, 1]."""
    return torch.maximum(weight * (1 - x), -weight * x)


def _moved(norm: Norm, x: Tensor, weight: Tensor, multiplier: float) -> Tensor:
    """By Lagrange, the best perturbation of its size: for L2 clip(m w), for Linf clip(m sign w)."""
    return (x + multiplier * (weight if norm is L2 else weight.sign())).clamp(0, 1) - x


def _bisect(enough: Callable[[float], bool]) -> float:
    low, high = 0.0, 1e6
    if not enough(high):
        return float("inf")
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _smallest_in_box(norm: Norm, x: Tensor, weight: Tensor, need: float) -> float:
    """The smallest size within [0, 1] that adds `need` to `weight @ x`; infinite if none does."""
    if norm is L2 or norm is Linf:
        multiplier = _bisect(lambda m: float(_moved(norm, x, weight, m) @ weight) >= need)
        return float(norm.size(_moved(norm, x, weight, multiplier)[None])) if multiplier < 1e6 else float("inf")
    gains = _gains(x, weight)
    if float(gains.sum()) < need:
        return float("inf")
    if norm is L0:  # the pixels that can add most
        return int((gains.sort(descending=True).values.cumsum(0) < need).sum()) + 1
    size = 0.0  # L1: the steepest pixels, each to its end, the last in part
    for pixel in weight.abs().argsort(descending=True).tolist():
        steep = float(weight[pixel].abs())
        if float(gains[pixel]) >= need:
            return size + need / steep
        size, need = size + float(gains[pixel]) / steep, need - float(gains[pixel])
    return float("inf")


def largest_gain(norm: Norm, x: Tensor, weight: Tensor, eps: float) -> float:
    """The most that a perturbation of size `eps` adds to `weight @ x` within [0, 1]."""
    if norm is Linf:
        return float(((x + eps * weight.sign()).clamp(0, 1) - x) @ weight)
    gains = _gains(x, weight)
    if norm is L2:
        multiplier = _bisect(lambda m: float(_moved(L2, x, weight, m).norm()) >= eps)
        return float(gains.sum()) if multiplier > 1e6 else float(_moved(L2, x, weight, multiplier) @ weight)
    if norm is L0:
        return float(gains.sort(descending=True).values[: int(eps)].sum())
    total = 0.0
    for pixel in weight.abs().argsort(descending=True).tolist():
        steep = float(weight[pixel].abs())
        used = min(eps, float(gains[pixel]) / steep)
        total, eps = total + used * steep, eps - used
    return total


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


def small_net(dtype: torch.dtype = torch.float64, classes: int = 10, seed: int = 0) -> SmallNet:
    """In evaluation mode, with running statistics that are not the default ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SmallNet(classes).to(dtype)
        for _ in range(5):
            net(torch.rand(16, 1, 4, 6, dtype=dtype))
    return net.eval()


def images(count: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Images of which a third of the pixels are at the ends of the box."""
    generator = torch.Generator().manual_seed(seed)
    return (1.5 * torch.rand(count, 1, 4, 6, generator=generator, dtype=dtype) - 0.25).clamp(0, 1)


@dataclass(frozen=True)
class Another:
    """Another small net as a value: equal, copied and printed like the attacks that hold it."""

    seed: int

    def __call__(self, x: Tensor) -> Tensor:
        return small_net(x.dtype, seed=self.seed)(x)


@dataclass(frozen=True)
class Same:
    """The identity as a value."""

    def __call__(self, x: Tensor) -> Tensor:
        return x

"""Efficient Defenses' figure 2: a small network on two shapes of points, augmented in five ways."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from steelman.attacks import FGSM, JSMA, VirtualAdversarial
from steelman.attacks.core import Attack
from steelman.defences import Plain
from steelman.networks.layers import Rescale
from steelman.norms import L2
from steelman.optimisers import Adam
from steelman.report.plots import PALETTE, save_figure
from steelman.training import Training, fit

Shape: TypeAlias = Literal["circles", "moons"]
SHAPES: tuple[Shape, ...] = ("circles", "moons")
SEED, POINTS, EPS, COPIES = 17, 20, 0.3, 10
BOX = (-1.0, 1.0)

ATTACKS: Mapping[str, Attack] = {
    "FGM": FGSM(EPS, L2, exact=False, reference="prediction", box=BOX),
    "VAT": VirtualAdversarial(EPS, iterations=5, box=BOX),
    "JSMA": JSMA(theta=0.1, reach=False, prune=False, box=BOX),
}
AUGMENTATIONS = ("none", *ATTACKS, "uniform noise", "Gaussian noise")


@dataclass(frozen=True)
class Points:
    """Points of two classes in the square from -1 to 1; `whole` has 2,000 of the shape that they are drawn from."""

    x: Tensor
    y: Tensor
    whole: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Trained:
    """A network, and the points that it was trained on beside the originals."""

    network: nn.Module
    extra: Tensor
    labels: Tensor


def toy_study(path: Path, *, epochs: int = 100) -> list[str]:
    """Draw the figure to `path`, and return the numbers that stand under it.

    A point and the nearest one of the other class are the ends of a segment; of its 101 steps, the mean confidence and
    the steepest change of a probability, for each unit of length, are averaged over all points.
    """
    shapes: dict[Shape, Points] = {shape: points(shape) for shape in SHAPES}
    found: dict[Shape, dict[str, Trained]] = {shape: trained(each, epochs=epochs) for shape, each in shapes.items()}
    save_figure(_figure(shapes, found), path)
    return [
        f"{shape}, {name}: " + ", ".join(f"{what} {value:.3g}" for what, value in numbers.items())
        for shape, networks in found.items()
        for name, each in networks.items()
        for numbers in [measured(each.network, shapes[shape])]
    ]


def points(shape: Shape) -> Points:
    """20 of 200 points on a shape, without noise, drawn and scaled as in the authors' code."""
    from sklearn.datasets import make_circles, make_moons

    def made(count: int) -> tuple[np.ndarray, np.ndarray]:
        more: Any = {"random_state": np.random.RandomState(SEED)}
        x, y = make_circles(count, factor=0.6, **more) if shape == "circles" else make_moons(count, **more)
        return np.asarray(x), np.asarray(y)

    x, y = made(10 * POINTS)
    drawn = random.Random(SEED).sample(range(10 * POINTS), POINTS)
    low, high = x[drawn].min(0), x[drawn].max(0)

    def scaled(x: np.ndarray) -> Tensor:
        return torch.tensor(BOX[0] + (BOX[1] - BOX[0]) * (x - low) / (high - low), dtype=torch.float32)

    whole, labels = made(100 * POINTS)
    return Points(scaled(x[drawn]), torch.tensor(y[drawn]), (scaled(whole), torch.tensor(labels)))


def trained(data: Points, *, epochs: int = 100, linear_first: bool = False) -> dict[str, Trained]:
    """A network without augmentation, and one for each of five, by name.

    Attacks give one point for each original and are crafted on the first network; uniform noise within .3 and Gaussian
    noise of deviation .3 give ten. All points are clipped to the square, which the originals span.

    linear_first  whether the first layer has no ReLU, as in the authors' code; the paper has one (default False)
    """

    def network(extra: Tensor, labels: Tensor) -> Trained:
        with torch.random.fork_rng([]):
            torch.manual_seed(SEED)
            net = _network(linear_first)
        training = Training(epochs=epochs, batch_size=2, optimiser=Adam(lr=1e-3), seed=SEED)
        # `fit` has images from 0 to 1.
        images = (torch.cat([data.x, extra]) - BOX[0])[..., None, None] / (BOX[1] - BOX[0])
        whole = nn.Sequential(nn.Flatten(), Rescale(shift=0.5, scale=BOX[1] - BOX[0]), net)
        fit(whole, (images.clamp(0, 1), torch.cat([data.y, labels])), Plain(), training, progress=False)
        return Trained(net, extra, labels)

    found = {"none": network(data.x[:0], data.y[:0])}
    for name, attack in ATTACKS.items():
        seeds = torch.arange(POINTS) + SEED
        found[name] = network(attack(found["none"].network, data.x, data.y, generator=seeds), data.y)
    size, chance = (COPIES, *data.x.shape), torch.Generator().manual_seed(SEED)
    noises = (EPS * (2 * torch.rand(size, generator=chance) - 1), EPS * torch.randn(size, generator=chance))
    for name, noise in zip(AUGMENTATIONS[-2:], noises, strict=True):
        found[name] = network((data.x + noise).clamp(*BOX).flatten(0, 1), data.y.repeat(COPIES))
    return found


def _network(linear_first: bool) -> nn.Sequential:
    """With the initial weights of Keras, in which the authors' code is written."""
    first = nn.Identity() if linear_first else nn.ReLU()
    net = nn.Sequential(nn.Linear(2, 64), first, nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return net


@torch.no_grad()
def measured(network: nn.Module, data: Points) -> dict[str, float]:
    """The accuracy on the whole shape, and what happens on the segments between the classes."""
    x, y = data.whole
    apart = torch.cdist(data.x, data.x).masked_fill(data.y[:, None] == data.y, torch.inf)
    length, other = apart.min(1)
    steps = torch.linspace(0, 1, 101)[:, None, None]
    answers = network(data.x + steps * (data.x[other] - data.x)).softmax(-1)
    steepest = answers[..., 0].diff(dim=0).abs().amax(0) * (len(steps) - 1) / length
    return {
        "accuracy": float((network(x).argmax(1) == y).float().mean()),
        "confidence between the classes": float(answers.amax(-1).mean()),
        "steepest change": float(steepest.mean()),
    }


def _figure(shapes: dict[Shape, Points], found: dict[Shape, dict[str, Trained]]) -> Any:
    """A row for each shape, a column for each augmentation: regions, contours of confidence, large and added points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(AUGMENTATIONS), 2.7 * len(shapes)), layout="constrained")
    grid = np.linspace(BOX[0] - 0.2, BOX[1] + 0.2, 121)
    square = torch.from_numpy(np.stack(np.meshgrid(grid, grid), -1)).float()
    for row, (shape, data) in enumerate(shapes.items()):
        for column, (name, each) in enumerate(found[shape].items()):
            axes = figure.add_subplot(len(shapes), len(AUGMENTATIONS), row * len(AUGMENTATIONS) + column + 1)
            with torch.no_grad():
                confidence = each.network(square).softmax(-1)[..., 1].numpy()
            axes.contourf(grid, grid, confidence, [0, 0.5, 1], colors=PALETTE[:2], alpha=0.25)
            axes.contour(grid, grid, confidence, np.arange(1, 10) / 10, colors="grey", linewidths=0.7)
            for label, (colour, marker) in enumerate(zip(PALETTE, "^o", strict=False)):
                for x, y, area in ((each.extra, each.labels, 9), (data.x, data.y, 42)):
                    some = x[y == label].numpy()
                    axes.scatter(*some.T, s=area, c=colour, marker=marker, edgecolors="black", linewidths=0.5)
            axes.set(xticks=[], yticks=[], aspect="equal", xlim=(grid[0], grid[-1]), ylim=(grid[0], grid[-1]))
            axes.set_title(name if row == 0 else "", fontsize=11)
            axes.set_ylabel(shape if column == 0 else "", fontsize=11)
    figure.set_label("decision regions and confidence of a small network, for each way to augment its points")
    return figure

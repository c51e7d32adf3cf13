"""The networks, which have learnt made images, and images of which a short PGD breaks half."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmarks.gpu.loops import plain_pgd
from torch import Tensor, nn

from steelman.data import InMemory
from steelman.networks import LeNet, PreActResNet18, ResNet20

CLASSES = 10
NETWORKS = ("LeNet", "ResNet-18")
FULL = {"LeNet": (1, 28, 28), "ResNet-18": (3, 32, 32)}
SMALL = {"LeNet": (1, 16, 16), "ResNet-18": (3, 8, 8)}
"""Shapes of the images; ResNet-18 is YOPO's, `PreActResNet18`, and in small a narrow ResNet-20 in its place."""


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    device  where it is measured
    folder  keeps the trained networks, so that all parts have the same
    small   few images and steps: whether everything runs, not how fast
    peers   a folder with checkouts of torchattacks and AutoAttack
    """

    device: torch.device
    folder: Path
    small: bool = False
    peers: Path | None = None

    def of(self, small: int, full: int) -> int:
        return small if self.small else full


@dataclass(frozen=True)
class Ground:
    """A network in evaluation mode with frozen weights, images that it classifies correctly, and a radius in Linf."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        return self.x[:count], self.y[:count]


def network(name: str, setting: Setting) -> nn.Module:
    """Untrained, the same at every call."""
    torch.manual_seed(0)
    shape = (SMALL if setting.small else FULL)[name]
    if name == "LeNet":
        return LeNet(shape=shape)
    return ResNet20(shape=shape) if setting.small else PreActResNet18(shape=shape)


def made(name: str, setting: Setting, count: int, seed: int = 0) -> InMemory:
    """Bytes: a smooth pattern for each class, the same for all seeds, and noise."""
    shape = (SMALL if setting.small else FULL)[name]
    chance = torch.Generator().manual_seed(0)
    pattern = F.interpolate(torch.rand(CLASSES, shape[0], 5, 5, generator=chance), shape[1:], mode="bilinear")
    chance.manual_seed(1 + seed)
    y = torch.randint(CLASSES, (count,), generator=chance)
    x = 0.25 + 0.5 * pattern[y] + 0.2 * torch.randn(count, *shape, generator=chance)
    return InMemory("made", (255 * x.clamp(0, 1)).round().to(torch.uint8), y, tuple("0123456789"))


def ground(name: str, setting: Setting) -> Ground:
    """The trained network and 1,000 images (small: 24), from the folder where an earlier part has left it."""
    model, path = network(name, setting).to(setting.device), setting.folder / f"{name}-{setting.small}.pt"
    batch = next(made(name, setting, setting.of(24, 1000), seed=1).to(setting.device).in_order(1000))
    if path.is_file():
        kept = torch.load(path, map_location=setting.device, weights_only=True)
        model.load_state_dict(kept["state"])
        eps = kept["eps"]
    else:
        _learn(model, name, setting)
        eps = _half(model.eval(), batch.x[:200], batch.y[:200])
        torch.save({"state": model.state_dict(), "eps": eps}, path)
    model.eval().requires_grad_(False)
    with torch.no_grad():
        right = torch.where(model(batch.x).argmax(1) == batch.y)[0]
    return Ground(name, model, batch.x[right], batch.y[right], eps)


def _learn(model: nn.Module, name: str, setting: Setting) -> None:
    steps = setting.of(20, 300)
    data = made(name, setting, 64 * steps).to(setting.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for batch in data.in_order(64):
        optimiser.zero_grad()
        F.cross_entropy(model(batch.x), batch.y).backward()
        optimiser.step()


def _half(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The radius at which ten steps of PGD leave half of the images correct."""
    low, high = 0.0, 0.5
    for _ in range(8):
        eps = (low + high) / 2
        x_adv = plain_pgd(model, x, y, eps, eps / 4, 10)
        with torch.no_grad():
            wrong = model(x_adv).argmax(1) != y
        low, high = (low, eps) if float(wrong.double().mean()) >= 0.5 else (eps, high)
    return (low + high) / 2

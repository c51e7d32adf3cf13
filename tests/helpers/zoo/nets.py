"""The networks behind the models, and their weights, which `python -m zoo.fitting` made."""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("weights.safetensors")


class Dense(nn.Module):
    def __init__(self, inputs: int = 64, hidden: int = 64) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x.flatten(1)))
        return self.head(F.relu(self.second(x)))


class Conv(nn.Module):
    def __init__(self, channels: int = 1, size: int = 8, width: int = 12) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, width, 3, padding=1)
        self.two = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2)
        self.hidden = nn.Linear(2 * width * (size // 2) ** 2, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(F.relu(self.one(x))))
        return self.head(F.relu(self.hidden(x.flatten(1))))


class Unit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.two(F.relu(self.norm1(self.one(x))))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 10, 3, padding=1)
        self.units = nn.Sequential(Unit(10), nn.MaxPool2d(2), Unit(10))
        self.head = nn.Linear(10 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.units(self.stem(x)).flatten(1))


class Linear(nn.Module):
    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class Bounded(nn.Module):
    """ReLU cut at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1)).clamp(0, 1)
        return self.head(self.second(x).clamp(0, 1))


class Coder(nn.Module):
    """An autoencoder of 16 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16))
        self.decoder = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 64), nn.Sigmoid())

    def decoded(self, code: Tensor) -> Tensor:
        return self.decoder(code).unflatten(1, (1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoded(self.encoder(x))


@cache
def stored() -> dict[str, Tensor]:
    return load_file(WEIGHTS)


def filled(network: nn.Module, name: str) -> nn.Module:
    """The network with the weights of that name, in evaluation mode."""
    state = {key.removeprefix(f"{name}/"): each for key, each in stored().items() if key.startswith(f"{name}/")}
    network.load_state_dict({key: each.float() if each.is_floating_point() else each for key, each in state.items()})
    return network.eval()


def plain_dense() -> Dense:
    return filled(Dense(), "dense")


def plain_conv() -> Conv:
    return filled(Conv(), "conv")


def robust_conv() -> Conv:
    return filled(Conv(), "conv pgd")


def train_images() -> tuple[Tensor, Tensor]:
    """All training images and labels."""
    from steelman.data import Digits

    train = Digits().load("train")
    (batch,) = train.batches([torch.arange(len(train))])
    return batch.x, batch.y

"""For testing AdvGAN and GAP: a smooth classifier, a batch, a step of length 1, and a classifier of digits."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import nn

from steelman import AttackTraining, Batch, Plain, Training, UniformNoise, fit
from steelman.adversaries import Adversary
from steelman.attacks import Attack
from steelman.data import Digits
from steelman.defences.game import Game
from steelman.networks import MLP
from steelman.training import Adam, play


class Net(nn.Module):
    """Three classes of images of (2, 6, 8). Its answers depend on its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3 * 4 * 6, 3)
        self.norm.get_buffer("running_mean").uniform_(-0.5, 0.5)
        self.norm.get_buffer("running_var").uniform_(0.3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).tanh().flatten(1))


def batch(shape: Sequence[int], count: int = 5) -> Batch:
    """Images of which some pixels are at the ends of the box, in double precision."""
    chance = torch.Generator().manual_seed(1)
    x = (1.5 * torch.rand(count, *shape, generator=chance, dtype=torch.float64) - 0.25).clamp(0, 1)
    return Batch(x, torch.randint(3, (count,), generator=chance), seeds=torch.arange(count))


def moved(game: Game, players: nn.ModuleDict, part: Batch) -> dict[str, float]:
    """Play a batch with steps of length 1; returns the losses."""
    learning = {name: list(net.parameters()) for name, net in players.items()}
    return play(game, players, part, {name: torch.optim.SGD(each, 1.0) for name, each in learning.items() if each})


@cache
def digits() -> tuple[nn.Module, Batch]:
    """A classifier of 8x8 digits, and 300 test images."""
    torch.manual_seed(0)
    net = MLP(shape=(1, 8, 8), hidden=(32,))
    training = Training(epochs=8, batch_size=50, optimiser=Adam(lr=0.01))
    fit(net, Digits().load("train"), Plain(), training, progress=False)
    return net.eval(), next(Digits().load("test").in_order(300))


def accuracy(net: nn.Module, attack: Attack | None = None) -> float:
    _, part = digits()
    x = part.x if attack is None else attack(net, part.x, part.y, generator=torch.Generator().manual_seed(0))
    return float((net(x).argmax(1) == part.y).double().mean())


def noise(eps: float) -> float:
    """Accuracy under random noise of the radius."""
    return accuracy(digits()[0], UniformNoise(eps=eps))


def learnt(adversary: Adversary, epochs: int) -> Adversary:
    """The attack by a generator trained against the classifier of digits."""
    train, game = Digits().load("train"), AttackTraining(adversary)
    torch.manual_seed(0)
    players = game.players(train)
    fit(digits()[0], train, game, Training(epochs=epochs, batch_size=50), players=players, progress=False)
    return adversary.with_generator(players["generator"].network)

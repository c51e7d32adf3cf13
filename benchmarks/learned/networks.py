"""The small networks of the figures, on MNIST: each trained once, kept in the folder of runs, and found there again."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from steelman import FGSM, L2, PGD, PGN, AdversarialTraining, AttackTraining, Plain
from steelman.data.dataset import Dataset
from steelman.defences import Game
from steelman.defences.game import Player
from steelman.networks import ConvPoolCNN
from steelman.optimisers import Adam
from steelman.training import Training, fit

WIDTH, GENERATOR_WIDTH, HIDDEN = 6, 16, 64
BATCH, RATE, EMA = 32, 1e-3, 0.99
SCALE = 1.0
"""Of the gradient image. The paper's 1/128 leaves a generator that trains for minutes all but blind."""


def fgm(eps: float) -> FGSM:
    return FGSM(eps, norm=L2)


def pgd(eps: float) -> PGD:
    """PGN's baseline: 10 steps of 5 eps / (3 * 10)."""
    return PGD(eps, steps=10, step_size=5 * eps / 30, norm=L2)


def pgn(c: float) -> PGN:
    return PGN(norm_weight=c, width=GENERATOR_WIDTH, hidden=HIDDEN, grad_scale=SCALE, optimiser=Adam(RATE))


def game(method: str, strength: float) -> Game:
    """By a method's name and its radius, or the weight of PGN's norm."""
    if method == "naive":
        return Plain()
    return pgn(strength) if method == "PGN" else AdversarialTraining({"FGM": fgm, "PGD": pgd}[method](strength))


@dataclass(frozen=True)
class Networks:
    """Where they are kept, and for how many batches they train."""

    data: Dataset
    folder: Path
    iterations: int
    generator_iterations: int

    def classifier(self, method: str, strength: float = 0.0) -> nn.Module:
        torch.manual_seed(0)
        net = ConvPoolCNN(shape=self.data.shape, width=WIDTH)
        training = Training(iterations=self.iterations, batch_size=BATCH, optimiser=Adam(RATE), ema=EMA)
        fit(
            net,
            self.data,
            game(method, strength),
            training,
            folder=self.folder / name(method, strength),
            progress=False,
        )
        return net.eval()

    def attack(self, victim: str, net: nn.Module, c: float) -> PGN:
        """PGN's attack on a classifier that stays as it is."""
        adversary = pgn(c)
        torch.manual_seed(0)
        generator = adversary.network(self.data.shape, len(self.data.classes))
        player = Player(generator, adversary.optimiser, adversary.schedule)
        training = Training(iterations=self.generator_iterations, batch_size=BATCH)
        folder = self.folder / f"{name('PGN', c)}-on-{victim}"
        fit(
            net,
            self.data,
            AttackTraining(adversary),
            training,
            folder=folder,
            players={"generator": player},
            progress=False,
        )
        return adversary.with_generator(generator.eval())


def name(method: str, strength: float) -> str:
    return method if method == "naive" else f"{method}-{strength:g}"

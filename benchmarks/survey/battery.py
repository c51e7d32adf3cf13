"""What each trained network is attacked with."""

from dataclasses import dataclass

import torch
from torch import nn

from steelman import (
    APGD,
    FGSM,
    L2,
    PGD,
    BitDepth,
    DeepFool,
    GaussianNoise,
    IgnoringFilter,
    SigmaZero,
    Square,
    Surrogate,
    WorstOf,
)
from steelman.attacks import Attack
from steelman.attacks.core.oracle import Oracle
from steelman.losses import DLR, Goal, Margin
from steelman.networks import Filtered
from steelman.randomness import Draws
from steelman.types import Images

EPS = 0.2
"""The radius in Linf that defences with a radius were trained for; in L2 it is 2."""


def battery(start: nn.Module) -> dict[str, Attack]:
    """By the name of their column; `start` is the undefended network that all began from."""
    margin = PGD(EPS, steps=40, loss=Margin(), stop_early=True)
    return {
        "FGSM .1": FGSM(0.1),
        "FGSM .2": FGSM(EPS),
        "PGD .1": PGD(0.1, steps=40, stop_early=True),
        "PGD .2": PGD(EPS, steps=40, stop_early=True),
        "worst .2": WorstOf(
            (margin, APGD(EPS, steps=50, loss=DLR(), targets=3, stop_early=True), Square(EPS, queries=250))
        ),
        "PGD L2 2": PGD(2.0, steps=40, norm=L2, stop_early=True),
        "DeepFool": DeepFool(),
        "transfer .2": Surrogate(PGD(EPS, steps=40), start),
        "noise .3": GaussianNoise(0.3 * 28),
    }


def besides(model: nn.Module) -> dict[str, Attack]:
    """What only networks behind a filter are attacked with; the others' attacks go through it by BPDA."""
    if not isinstance(model, Filtered):
        return {}
    found: dict[str, Attack] = {
        "PGD .2, ignoring the filter": IgnoringFilter(PGD(EPS, steps=40)),
        "Square .2, the filter in a black box": Square(EPS, queries=250),
    }
    if isinstance(model.filter.filter, BitDepth) and model.filter.filter.bits == 1:
        found["sparse, to the filter's threshold"] = ToThreshold(SigmaZero())
    return found


@dataclass(frozen=True)
class ToThreshold(Attack):
    """An attack on a network that sees one bit of each pixel, whose changes are then cut to what the bit needs.

    Every pixel whose bit the attack has turned is put just beyond one half, every other as it was.
    """

    attack: Attack

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found = self.attack.search(oracle, x, goal, draws)
        white = found > 0.5
        return torch.where(white == (x > 0.5), x, torch.where(white, x.new_tensor(0.501), x.new_tensor(0.499)))

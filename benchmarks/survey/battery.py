"""What each trained network is attacked with."""

from torch import nn

from steelman import (
    APGD,
    FGSM,
    L2,
    PGD,
    DeepFool,
    GaussianNoise,
    IgnoringFilter,
    Square,
    Surrogate,
    WorstOf,
)
from steelman.attacks import Attack
from steelman.losses import DLR, Margin
from steelman.networks import Filtered

EPS = 0.2
"""The radius in Linf that defences with a radius were trained for; in L2 it is 2."""


def battery(start: nn.Module) -> dict[str, Attack]:
    """By the name of their column; `start` is the undefended network that all began from."""
    margin = PGD(EPS, steps=40, loss=Margin(), early_leave=True)
    return {
        "FGSM .1": FGSM(0.1),
        "FGSM .2": FGSM(EPS),
        "PGD .1": PGD(0.1, steps=40, early_leave=True),
        "PGD .2": PGD(EPS, steps=40, early_leave=True),
        "worst .2": WorstOf(
            (margin, APGD(EPS, steps=50, loss=DLR(), targets=3, early_leave=True), Square(EPS, queries=250))
        ),
        "PGD L2 2": PGD(2.0, steps=40, norm=L2, early_leave=True),
        "DeepFool": DeepFool(),
        "transfer .2": Surrogate(PGD(EPS, steps=40), start),
        "noise .3": GaussianNoise(0.3 * 28),
    }


def besides(model: nn.Module) -> dict[str, Attack]:
    """What only networks behind a filter are attacked with; the others' attacks go through it by BPDA."""
    if not isinstance(model, Filtered):
        return {}
    return {"PGD .2, ignoring the filter": IgnoringFilter(PGD(EPS, steps=40))}

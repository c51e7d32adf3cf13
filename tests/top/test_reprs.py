"""What methods print, and the longer texts by which runs and tables know them, which must not change."""

from dataclasses import dataclass

import pytest
import torch
from rich.console import Console
from torch import nn

import steelman
from steelman import FGSM, L2, PGD, TRADES, DeepDefense, Sum, Surrogate, Training, WorstOf, losses
from steelman.attacks.core import Attack
from steelman.data import MNIST, Flip
from steelman.losses import Margin
from steelman.training import SGD, Cosine
from steelman.training.fingerprint import text_of

NAMES = {**vars(steelman), **vars(losses), "SGD": SGD, "Cosine": Cosine, "Flip": Flip, "MNIST": MNIST}


@dataclass(frozen=True)
class Mine(Attack):
    """A user's own."""

    eps: float = 0.5
    inner: PGD = PGD()

    def search(self, oracle, x, goal, draws):
        return x


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (PGD(eps=8 / 255), "PGD()"),
        (PGD(eps=0.1), "PGD(eps=0.1)"),
        (PGD(eps=4 / 255, loss=Margin(50.0), norm=L2), "PGD(eps=4/255, norm=L2, loss=Margin(confidence=50.0))"),
        (PGD(eps=0.2, box=(-1.0, 1.0)), "PGD(eps=0.2, box=(-1.0, 1.0))"),
        (PGD(eps=0.123456789), "PGD(eps=0.123456789)"),
        (WorstOf((PGD(eps=0.1), FGSM())), "WorstOf(attacks=(PGD(eps=0.1), FGSM()))"),
        (WorstOf((FGSM(),)), "WorstOf(attacks=(FGSM(),))"),
        (
            Training(epochs=3, schedule=Cosine(), augment=(Flip(),)),
            "Training(epochs=3, schedule=Cosine(), augment=(Flip(),))",
        ),
        (MNIST(), "MNIST()"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_method_prints_what_differs_from_the_default_and_python_reads_it(method: object, text: str):
    assert repr(method) == text
    steelman.PGD  # noqa: B018 (public names load at the first use)
    assert eval(text, {**NAMES, **vars(steelman)}) == method


def test_networks_and_tensors_are_shown_as_their_class():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert repr(Surrogate(FGSM(), network)) == "Surrogate(attack=FGSM(), model=Sequential(...))"
    assert repr(PGD(eps=torch.rand(99, dtype=torch.float64))) == "PGD(eps=Tensor(...))"


def test_the_texts_by_which_runs_are_known_are_whole():
    sgd = "SGD(lr=0.1, momentum=0.9, weight_decay=0.0, nesterov=False)"
    pgd = (
        "PGD(reference='label', box=(0.0, 1.0), uint8=False, precision='full', eps=0.1, steps=10, step_size=None, "
        "norm=Linf, loss=CrossEntropy(), random_start=True, normal_start=None, restarts=1, targets=0, keep_best=False, "
        "stop_early=False, parallel_restarts=1)"
    )
    assert text_of(SGD()) == str(SGD()) == sgd
    assert text_of(PGD(eps=0.1)) == pgd
    assert text_of((Mine(inner=PGD(eps=0.1)),)) == (
        f"(Mine(reference='label', box=(0.0, 1.0), uint8=False, precision='full', eps=0.5, inner={pgd}),)"
    )
    assert repr(PGD(eps=0.1)) == "PGD(eps=0.1)", "short again afterwards"


def test_the_names_of_attacks_in_tables_have_four_digits():
    assert str(PGD(eps=4 / 255, loss=Margin(50.0))) == "PGD(eps=0.01569, loss=Margin(confidence=50.0))"
    assert str(PGD(eps=0.1, loss=Margin())) == "PGD(eps=0.1, loss=Margin(confidence=inf))"


def test_a_users_class_keeps_the_repr_that_python_made():
    """It is part of the class, and so of its digest; what is of this package in it is short."""
    assert repr(Mine()) == (
        f"{Mine.__qualname__}(reference='label', box=(0.0, 1.0), uint8=False, precision='full', eps=0.5, inner=PGD())"
    )
    assert str(Mine(eps=0.25)) == "Mine(eps=0.25)"


def test_a_terminal_shows_the_same_on_several_lines():
    console = Console(width=40, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(TRADES(PGD(eps=0.1, steps=40), beta=3.0), Sum((TRADES(PGD(eps=0.1)), DeepDefense())))
    console.file.close()
    assert "eps=0.1" in console.export_text()
    assert "random_start" not in console.export_text()


def test_an_infinite_setting_prints_itself() -> None:
    assert repr(DeepDefense(p=float("inf"))) == "DeepDefense(p=inf)"

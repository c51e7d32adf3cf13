"""What a fine-tuning chooses: the defence's radius, the rate, the length; and that it says so."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from steelman import Linf
from steelman.attacks import PGD
from steelman.classes import concrete
from steelman.data import Digits, InMemory
from steelman.defences import Plain
from steelman.defences.game import Game
from steelman.experiments import fine_tuning
from steelman.experiments.fine_tuning import defence_of, planned
from steelman.networks import MLP
from steelman.norms import L2
from steelman.optimisers import SGD, Adam
from steelman.training import History


@pytest.mark.parametrize(
    ("text", "norm", "expected"),
    [
        ("fast", Linf, "AdversarialTraining(attack=PGD(eps=0.1, steps=1, step_size=0.125), crafting=train)"),
        ("AdversarialTraining", L2, "AdversarialTraining(attack=PGD(eps=0.1, norm=L2))"),
        ("TRADES", Linf, "TRADES(attack=PGD(eps=0.1, step_size=0.02258, loss=KL(), normal_start=0.001))"),
        ("MART", L2, "MART(attack=PGD(eps=0.1, step_size=0.02258, norm=L2, normal_start=0.001))"),
        ("AWP", Linf, "AWP(objective=AdversarialTraining(attack=PGD(eps=0.1)))"),
        ("Bilateral", Linf, "Bilateral(attack=PGD(eps=0.1, steps=1, step_size=0.1))"),
        ("MMA", L2, "MMA(d_max=0.15, norm=L2)"),
        ("Free", L2, "Free(eps=0.1, norm=L2)"),
        ("GaussianAugmentation", Linf, "GaussianAugmentation()"),
        ('{ kind = "AdversarialTraining", attack = "PGD" }', L2, "AdversarialTraining()"),
    ],
)
def test_a_name_gets_the_norm_and_the_radius_and_a_table_stands(text: str, norm: Any, expected: str) -> None:
    assert str(defence_of(text, norm, 0.1)) == expected


def test_no_radius_of_a_paper_is_left_in_any_defence() -> None:
    """MMA's is 1.5 times as large; noise has a standard deviation, not a radius."""
    for name, kind in concrete(Game).items():
        made = _made(name) if kind.__module__.startswith("steelman.") else None  # not what another test defines
        if made is not None:
            radii = re.findall(r"\b(?:eps|d_max)=([\d.e-]+)", repr(made))
            assert {float(each) for each in radii} <= {0.0123, 1.5 * 0.0123}, made


def _made(name: str) -> Game | None:
    """None for a defence that needs settings, such as a Sum."""
    try:
        return defence_of(name, Linf, 0.0123)
    except ValueError:
        return None


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return MLP(hidden=(16,), shape=(1, 8, 8), classes=10)


def few(count: int = 160) -> InMemory:
    return Digits().load("train").subset(torch.arange(count))


def scripted(monkeypatch: pytest.MonkeyPatch, seconds: float, best: float) -> list[tuple[str, float, int]]:
    """In place of `fit`: batches take so long, and this rate is the best. Returns what was tried."""
    tried = []

    def fit(model: nn.Module, data: object, defence: Any, training: Any, progress: bool) -> History:
        rate, batches = training.optimiser.lr, training.iterations
        tried.append((type(defence).__name__, rate, batches))
        line = {"clean": 0.9, "robust": 0.5 if rate == best else 0.4, "seconds": seconds * batches}
        return History([{"clean": 1.0, "robust": 0.0}, line])

    monkeypatch.setattr(fine_tuning, "fit", fit)
    return tried


def test_the_best_of_four_rates_is_taken_in_trials_of_a_tenth_of_the_training(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = scripted(monkeypatch, seconds=0.5, best=0.01)
    plan = planned(model, Digits().load("train"), Linf, 0.1, epochs=100)
    in_epoch = -(-(1297 - 129) // 128)
    assert plan.training.optimiser == SGD(lr=0.01, momentum=0.9, weight_decay=5e-4)
    assert (plan.training.epochs, plan.training.iterations, plan.training.batch_size) == (100, None, 128)
    assert [each[2] for each in tried[1:]] == [min(in_epoch, 100 * in_epoch // 40)] * 4
    assert plan.training.monitor == PGD(eps=0.1, steps=10, stop_early=True)
    assert plan.training.validation == 129
    assert f"length: 100 epochs of {in_epoch} batches, about 8 min here" in plan.reasons
    assert any("rate: 0.01, the best of 4 after 10 batches each" in each for each in plan.reasons)
    assert any("129 held-out images: 50.0 % before, 70.0 % then" in each for each in plan.reasons)


@pytest.mark.parametrize(
    ("minutes", "defence", "kind", "epochs", "iterations"),
    [
        (10.0, None, "TRADES", 62, None),  # 600 batches of a second; 500 are the default, at 8 in an epoch
        (1.0, None, "TRADES", 7, None),
        (0.3, None, "AdversarialTraining", 2, None),  # fewer than three epochs of TRADES
        (0.3, Plain(), "Plain", 2, None),  # the defence was named
        (0.05, None, "AdversarialTraining", 10, 3),  # less than an epoch
    ],
)
def test_minutes_limit_the_training_and_few_of_them_take_fast(
    model: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float,
    defence: Any,
    kind: str,
    epochs: int,
    iterations: int | None,
) -> None:
    scripted(monkeypatch, seconds=1.0, best=0.01)
    plan = planned(model, few(), Linf, 0.1, minutes=minutes, defence=defence)  # 144 images, 8 batches of 20
    assert type(plan.defence).__name__ == kind
    assert (plan.training.epochs, plan.training.iterations) == (epochs, iterations)
    assert any("fast, since fewer than 3 epochs" in each for each in plan.reasons) == (
        kind == "AdversarialTraining" and defence is None
    )


def test_a_network_with_layer_normalisation_is_trained_by_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, seconds=0.1, best=1e-4)
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 10))
    assert planned(model, few(), Linf, 0.1).training.optimiser == Adam(lr=1e-4)


def test_trials_leave_the_network_as_it_was(model: nn.Module) -> None:
    before = [each.clone() for each in model.parameters()]
    said: list[str] = []
    plan = planned(model, few(), Linf, 0.1, defence=Plain(), epochs=1, say=said.append)
    assert all(map(torch.equal, before, model.parameters()))
    assert [line.partition(":")[0] for line in said] == [f"  rate {rate:g}" for rate in fine_tuning.RATES[SGD]]
    assert plan.training.epochs == 1


def test_too_few_images_or_seconds_are_refused(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there are 19 training images, and at least 20 are needed"):
        planned(model, few(19), Linf, 0.1)
    scripted(monkeypatch, seconds=100.0, best=0.01)
    with pytest.raises(ValueError, match=r"a batch takes 100\.0 s here, so that none fits into 1 min"):
        planned(model, few(), Linf, 0.1, minutes=1.0)

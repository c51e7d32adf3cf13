"""With reference="prediction" an attack is the same one with the model's prediction for a label."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from steelman import config
from steelman.attacks import (
    EOT,
    FGSM,
    PGD,
    Attack,
    BestOf,
    DeepFool,
    IgnoringFilter,
    Surrogate,
    UniversalPerturbation,
    Within,
    WorstOf,
)
from steelman.data import Digits
from steelman.norms import L2


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that is right on most digits, and images of which some have other labels."""
    torch.manual_seed(0)
    batch = next(Digits().load("train").in_order(300))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.y).backward()
        optimiser.step()
    y = batch.y[:20].clone()
    y[::5] = (y[::5] + 1) % 10
    return model.eval(), batch.x[:20], y


def test_an_attack_leaves_the_prediction(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = trained
    predicted = model(x).argmax(1)
    assert bool((predicted != y).any())
    away, inner = DeepFool(steps=5, reference="prediction"), DeepFool(steps=5)
    assert str(away) == "DeepFool(steps=5, reference=prediction)"
    assert "reference" not in str(inner)
    assert torch.equal(away(model, x, y), inner(model, x, predicted))
    assert (away.norm, away.budget, away.access) == (L2, None, "gradients")
    with pytest.raises(ValueError, match="has no target"):
        away(model, x, y, target=(y + 1) % 10)
    labels = y.clone()
    found, plain = away.run(model, x, y), inner.run(model, x, predicted)
    assert torch.equal(y, labels)
    assert torch.equal(found.success, plain.success)
    assert torch.equal(found.success, found.prediction != predicted)
    healed = away.run(model, x, plain.prediction)  # it succeeds where it finds the label, too
    assert torch.equal(healed.success, plain.success)
    assert torch.equal(healed.prediction, plain.prediction)
    torch.testing.assert_close(found.loss, nn.functional.cross_entropy(model(found.x_adv), predicted, reduction="none"))
    assert torch.equal(found.forwards, plain.forwards + 1)
    assert torch.equal(found.gradients, plain.gradients)
    parts = away.run(model, x, y, batch_size=7)
    assert torch.equal(parts.success, found.success)
    torch.testing.assert_close(parts.x_adv, found.x_adv)


@pytest.mark.parametrize(
    "around",
    [
        EOT,
        Within,
        IgnoringFilter,
        lambda attack: WorstOf((FGSM(), attack)),
        lambda attack: BestOf((DeepFool(), attack)),
        lambda attack: Surrogate(attack, nn.Flatten()),
        lambda attack: EOT(WorstOf((attack,))),
    ],
    ids=["EOT", "Within", "IgnoringFilter", "WorstOf", "BestOf", "Surrogate", "deep"],
)
def test_what_success_is_is_decided_outermost(around: Callable[[Attack], Attack]) -> None:
    with pytest.raises(ValueError, match=r"give reference, uint8 and precision to \w+ itself, not to DeepFool in it"):
        around(DeepFool(reference="prediction"))


def test_a_bound_holds_for_it_too(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = trained
    predicted = model(x).argmax(1)
    for inner in (Within(DeepFool(), 0.4), PGD(eps=0.05, random_start=False), EOT(PGD(random_start=False), samples=2)):
        found = replace(inner, reference="prediction").run(model, x, y)
        assert torch.equal(found.x_adv, inner(model, x, predicted))
        assert torch.equal(found.success, found.prediction != predicted)


def test_a_universal_perturbation_is_found_against_the_predictions(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = trained
    attack = UniversalPerturbation(eps=0.3, epochs=2, reference="prediction")
    plain = replace(attack, reference="label")
    assert torch.equal(attack.find(model, x, y), plain.find(model, x, model(x).argmax(1)))
    assert not torch.equal(attack.find(model, x, y), plain.find(model, x, y))


def test_other_references_are_refused() -> None:
    assert config.read(Attack, {"kind": "PGD", "reference": "prediction"}) == PGD(reference="prediction")
    with pytest.raises(ValueError, match=r"reference.*target"):
        config.read(Attack, {"kind": "PGD", "reference": "target"})

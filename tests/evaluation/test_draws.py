"""Draws of a random attack, against loops by hand; the loss at step t, against the attack stopped after t steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from steelman import EOT, FGSM, L2LDA, MIM, PGD, GaussianNoise
from steelman.attacks import Attack
from steelman.data import Digits
from steelman.evaluation import accuracy_over_draws, step_curve
from steelman.norms import L2
from steelman.randomness import combine

DRAWS = 3


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(36), nn.Dropout(0.2), nn.Linear(36, 10)
    )
    (train,) = Digits().load("train").batches([torch.arange(400)])
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(20):
        optimiser.zero_grad()
        cross_entropy(network(train.x), train.y).backward()
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def images():
    (batch,) = Digits().load("test").batches([torch.arange(12)])
    return batch.x, batch.y


def _name(value):
    return type(value).__name__ if isinstance(value, Attack) else None


def learned(**settings):
    torch.manual_seed(1)
    attack = L2LDA(eps=0.15, width=2, **settings)
    generator = attack.network((1, 8, 8), 10).eval()
    with torch.no_grad():  # as it begins, it hardly moves
        generator.out.weight *= 20
    return attack.with_generator(generator)


def seeds(image: int, draw: int, seed: int = 0):
    return combine(torch.tensor([seed]), image, draw)


@pytest.mark.parametrize("attack", [PGD(eps=0.15, steps=2), learned(steps=2), FGSM(eps=0.1)], ids=_name)
def test_accuracy_is_that_of_each_draw_on_each_image_alone(network, images, attack):
    x, y = images
    right = np.zeros((DRAWS, len(x)), bool)
    for draw in range(DRAWS):
        for i in range(len(x)):
            one, label = x[i : i + 1], y[i : i + 1]
            x_adv = attack(network, one, label, generator=seeds(i, draw))
            right[draw, i] = network(one).argmax() == label and network(x_adv).argmax() == label
    found = accuracy_over_draws(network, images, attack, DRAWS, batch_size=7)
    assert [each.value for each in found.draws] == list(right.mean(1))
    assert found.best.value == right.mean(1).max()
    assert found.worst.value == right.mean(1).min()
    assert found.mean == pytest.approx(right.mean())
    assert found.worst_case.value == right.all(0).mean()
    assert 0 < found.worst_case.value <= found.worst.value < 1


def test_draws_differ_and_a_seed_decides_them(network, images):
    attack = GaussianNoise(eps=3.0, rescale=True)
    found = accuracy_over_draws(network, images, attack, 6, seed=1)
    assert found.worst.value < found.best.value
    assert found.worst_case.value < found.worst.value
    assert str(found).startswith("6 draws: best ")
    assert accuracy_over_draws(network, images, attack, 6, seed=1) == found
    assert accuracy_over_draws(network, images, attack, 6, seed=2) != found


def stopped(attack, steps):
    """The attack's way up to a step; step 0 of those that begin there is the image itself."""
    return replace(attack, steps=steps) if steps or isinstance(attack, PGD) else None


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.15, steps=3, step_size=0.04),
        PGD(eps=1.0, steps=3, step_size=0.3, norm=L2),
        MIM(eps=0.15, steps=3, step_size=0.04),
        learned(steps=3),
    ],
    ids=_name,
)
def test_loss_and_accuracy_at_a_step_are_those_of_the_attack_stopped_there(network, images, attack):
    x, y = images
    losses = np.zeros((DRAWS, attack.steps + 1, len(x)))
    rights = np.zeros(losses.shape, bool)
    clean = (network(x).argmax(1) == y).numpy()
    for draw in range(DRAWS):
        numbers = torch.cat([seeds(i, draw) for i in range(len(x))])
        for step in range(attack.steps + 1):
            until = stopped(attack, step)
            x_t = x if until is None else until(network, x, y, generator=numbers)
            logits = network(x_t).detach()
            losses[draw, step] = cross_entropy(logits, y, reduction="none")
            rights[draw, step] = (logits.argmax(1) == y).numpy() & clean
    found = step_curve(network, images, attack, DRAWS, batch_size=7)
    assert found.largest == pytest.approx(losses.max(0).mean(1), rel=1e-5)
    assert found.mean == pytest.approx(losses.mean(0).mean(1), rel=1e-5)
    assert found.deviation == pytest.approx(losses.std(0).mean(1), rel=1e-4, abs=1e-6)
    assert found.accuracy == pytest.approx(rights.mean((0, 2)))
    assert found.worst_case == pytest.approx(rights.all(0).mean(1))
    assert found.largest[-1] > found.largest[0]
    assert 0 < found.accuracy[-1] < 1
    assert bool((found.deviation[1:] > 0).all()) is not isinstance(attack, MIM)


def test_the_model_is_attacked_in_evaluation_mode_and_found_as_it_was(network, images):
    expected = step_curve(network, images, PGD(steps=2), 2)
    network.train()
    before = [value.clone() for value in network.state_dict().values()]
    found = step_curve(network, images, PGD(steps=2), 2)
    accuracy_over_draws(network, images, PGD(steps=2), 2)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))
    network.eval()
    assert all(np.array_equal(a, b) for a, b in zip(vars(expected).values(), vars(found).values(), strict=True))


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (PGD(eps=0.3, stop_early=True), "stop_early=False"),
        (PGD(steps=2, restarts=2), "asked for 4 gradients in 2 steps"),
        (learned(steps=2, samples=2), "asked for 3 gradients"),
        (EOT(PGD(steps=2), samples=2), "asked for 4 gradients in 1 steps"),
        (GaussianNoise(eps=1.0), "asked for 0 gradients"),
    ],
    ids=_name,
)
def test_attacks_without_one_gradient_per_step_are_refused(network, images, attack, message):
    with pytest.raises(ValueError, match=message):
        step_curve(network, images, attack, 2)


def test_bad_numbers_are_refused(network, images):
    for bad in ({"draws": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            accuracy_over_draws(network, images, FGSM(), **bad)
        with pytest.raises(ValueError, match="at least 1"):
            step_curve(network, images, FGSM(), **bad)

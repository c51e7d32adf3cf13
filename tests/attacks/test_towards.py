"""Attacks with targets of their own, and the smallest radius of bounded ones."""

from dataclasses import replace

import pytest
import torch

from affine import affine, images, small_net
from steelman.attacks import (
    EOT,
    FGSM,
    JSMA,
    PGD,
    DeepFool,
    GaussianNoise,
    SmallestRadius,
    Surrogate,
    Towards,
    UniversalPerturbation,
    Within,
    WorstOf,
    every_target,
)
from steelman.attacks.core import Attack
from steelman.losses import KL
from steelman.norms import L0, L2, Linf, Norm

MODEL = small_net()
X = images(6, seed=3)
with torch.no_grad():
    Y = MODEL(X).argmax(1)
SEEDS = torch.arange(6)


@pytest.mark.parametrize("attack", [PGD(eps=0.5, random_start=True), DeepFool(), JSMA()], ids=repr)
@pytest.mark.parametrize("offset", [1, 4, 9])
def test_it_is_the_attack_with_that_target(attack: Attack, offset: int) -> None:
    given = attack.run(MODEL, X, Y, target=(Y + offset) % 10, generator=SEEDS)
    own = Towards(attack, offset).run(MODEL, X, Y, generator=SEEDS, batch_size=4)
    torch.testing.assert_close(own.x_adv, given.x_adv, rtol=0, atol=1e-12)
    assert torch.equal(own.success, given.success)
    assert torch.equal(own.success, own.prediction == (Y + offset) % 10)
    assert torch.equal(own.forwards, given.forwards)
    assert torch.equal(own.gradients, given.gradients)


def test_another_wrong_class_is_no_success() -> None:
    """Untargeted, each of these would count."""
    result = Towards(FGSM(eps=0.9), 3).run(MODEL, X, Y)
    assert bool(((result.prediction != Y) & ~result.success).any())


@pytest.mark.parametrize(
    "around",
    [
        lambda it: EOT(it, samples=1),
        lambda it: Surrogate(it, MODEL),
        lambda it: Within(it, 100.0),
    ],
    ids=["EOT", "Surrogate", "Within"],
)
def test_what_is_around_it_has_its_targets(around) -> None:
    attack = around(Towards(DeepFool(), 2))
    plain = Towards(DeepFool(), 2).run(MODEL, X, Y)
    result = attack.run(MODEL, X, Y)
    torch.testing.assert_close(result.x_adv, plain.x_adv, rtol=0, atol=1e-12)
    assert torch.equal(result.success, plain.success)


def test_among_others_every_wrong_class_counts() -> None:
    alone = Towards(PGD(eps=0.1, random_start=False), 2).run(MODEL, X, Y)
    several = WorstOf((Towards(PGD(eps=0.1, random_start=False), 2),)).run(MODEL, X, Y)
    assert torch.equal(several.x_adv, alone.x_adv)
    assert torch.equal(several.success, several.prediction != Y)


def test_every_wrong_class_has_a_name() -> None:
    found = every_target({"A": DeepFool(), "B": JSMA()}, 4)
    assert list(found) == [f"{name}, target +{offset}" for name in "AB" for offset in (1, 2, 3)]
    assert found["B, target +3"] == Towards(JSMA(), 3, 4)
    assert {found[f"A, target +{k}"].aim(torch.tensor([2])).item() for k in (1, 2, 3)} == {0, 1, 3}  # pyright: ignore


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Towards(DeepFool(), 10), "needs offset < classes; got 10 and 10"),
        (lambda: Towards(DeepFool(), 0), "offset >= 1"),
        (lambda: Towards(Towards(DeepFool()), 2), "has targets of its own"),
        (lambda: Towards(UniversalPerturbation()), "one answer for all images"),
        (lambda: Towards(DeepFool()).run(MODEL, X, Y, target=(Y + 1) % 10), "has targets of its own: leave target out"),
        (lambda: Towards(DeepFool(), 1, 7)(MODEL, X, Y % 7), "Towards has classes=7, and the model has 10"),
        (lambda: Towards(PGD(loss=KL()))(MODEL, X, Y), "KL"),
        (lambda: Towards(DeepFool(), reference="prediction")(MODEL, X, Y), "has no target"),
        (lambda: SmallestRadius(DeepFool()), "a radius of its own"),
        (lambda: SmallestRadius(UniversalPerturbation()), "one answer for all images"),
        (lambda: SmallestRadius(GaussianNoise(), bisections=0), "bisections >= 1"),
    ],
)
def test_impossible_settings_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("norm", [Linf, L2])
def test_the_smallest_radius_of_an_affine_model_is_its_distance(norm: Norm) -> None:
    """Two classes and no box: one step of PGD finds the worst image of a ball, so that |f| / |w|_q is the answer."""
    model = affine(0, images=12, classes=2)
    attack = SmallestRadius(PGD(norm=norm, steps=2, random_start=False), eps_max=8.0, bisections=20, box=None)
    result = attack.run(model, model.x, model.y)
    assert bool(result.success.all())
    size, nearest = (result.linf if norm is Linf else result.l2), model.nearest(norm)
    assert bool((size >= nearest - 1e-6).all())
    torch.testing.assert_close(size, nearest, rtol=1e-4, atol=1e-5)


def test_it_is_the_first_radius_of_a_fine_grid() -> None:
    pgd = PGD(steps=5, random_start=False, stop_early=True)
    result = SmallestRadius(pgd, eps_max=0.5, bisections=12).run(MODEL, X, Y, target=(Y + 3) % 10)
    grid = [k / 100 for k in range(1, 51)]
    won = torch.stack([replace(pgd, eps=eps).run(MODEL, X, Y, target=(Y + 3) % 10).success for eps in grid])
    even = (won[:-1] <= won[1:]).all(0) & won.any(0)  # once won, won at every radius
    assert int(even.sum()) >= 3
    first = torch.tensor(grid, dtype=torch.float64)[won.int().argmax(0)]
    assert bool((result.linf <= first + 1e-6)[even].all())
    assert bool((result.linf > first - 0.0101)[even].all())


def test_images_without_a_success_come_back_unchanged_and_cost_one_run() -> None:
    attack = SmallestRadius(PGD(steps=3, random_start=False), eps_max=1e-4)
    result = attack.run(MODEL, X, Y)
    assert not bool(result.success.any())
    assert torch.equal(result.x_adv, X)
    assert result.gradients.tolist() == [3] * 6
    wrong = attack.run(MODEL, X, (Y + 1) % 10)
    assert torch.equal(wrong.x_adv, X)
    assert wrong.gradients.tolist() == [0] * 6


def test_it_is_a_minimal_attack_in_the_norm_of_its_own() -> None:
    attack = SmallestRadius(PGD(eps=3.0, norm=L0, steps=2))
    assert attack.budget is None
    assert attack.measured_in is L0

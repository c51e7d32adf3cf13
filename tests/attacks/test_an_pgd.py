"""AN-PGD against the closed form of two classes, and against its parts."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from affine import affine, images, small_net
from steelman.attacks import ANPGD, PGD
from steelman.losses import KL, SoftMargin
from steelman.norms import L0, L1, L2, Linf, Norm

MODEL = small_net()
X = images(8)
Y = MODEL(X).argmax(1)
SEEDS = torch.arange(8)


@pytest.mark.parametrize("norm", [Linf, L2, L1], ids=repr)
@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_of_two_classes_it_finds_the_margin_whatever_the_ball(norm: Norm, share: float) -> None:
    model = affine(1, classes=2)
    nearest = model.nearest_in_box(norm)
    attack = ANPGD(radius=share * nearest, eps_max=4 * float(nearest.max()), norm=norm, steps=40, bisections=30)
    for random_start, limit in ((False, 1.00001), (True, 1.03)):  # L2 forgets its start only slowly
        result = replace(attack, random_start=random_start).run(model, model.x, model.y, generator=torch.arange(24))
        assert bool(result.success.all())
        ratio = norm.size(result.x_adv - model.x) / nearest
        assert float(ratio.max()) <= limit
        assert float(ratio.min()) >= 1 - 1e-9


def test_it_looks_along_the_perturbation_of_pgd() -> None:
    x_adv = ANPGD(radius=0.1)(MODEL, X, Y, generator=SEEDS)
    # AN-PGD has one climb, whose start is drawn as PGD's first restart is.
    far = PGD(eps=0.1, loss=SoftMargin())(MODEL, X, Y, generator=SEEDS)
    unit = (far - X) / Linf.size(far - X).reshape(-1, 1, 1, 1)
    moved = torch.where((x_adv != X).flatten(1).any(1))[0]
    assert len(moved) >= 4
    for row in moved.tolist():
        low, high = (0.0, 0.1) if bool(MODEL(far)[row].argmax() != Y[row]) else (0.1, 1.0)
        for _ in range(10):
            middle = (low + high) / 2
            image = (X[row] + middle * unit[row]).clamp(0, 1)
            low, high = (low, middle) if bool(MODEL(image[None]).argmax() != Y[row]) else (middle, high)
        torch.testing.assert_close(x_adv[row], (X[row] + high * unit[row]).clamp(0, 1), rtol=0, atol=1e-9)


def test_more_bisections_come_closer_and_never_end_on_the_wrong_side() -> None:
    sizes = []
    for bisections in (1, 4, 12):
        result = ANPGD(radius=0.1, bisections=bisections).run(MODEL, X, Y, generator=SEEDS)
        assert torch.equal(result.success, MODEL(result.x_adv).argmax(1) != Y)
        assert int(result.success.sum()) >= 4
        sizes.append(result.linf[result.success].sum())
    assert sizes[0] > sizes[1] > sizes[2]


def test_failures_come_back_clean_and_the_end_of_the_interval_is_tried() -> None:
    result = ANPGD(radius=1e-4, eps_max=1e-4).run(MODEL, X, Y, generator=SEEDS)
    assert not bool(result.success.any())
    assert torch.equal(result.x_adv, X)
    model = affine(1, classes=2)
    nearest = float(model.nearest_in_box(Linf)[0])
    just = ANPGD(radius=nearest / 2, eps_max=nearest * 1.0005, bisections=1, random_start=False)
    assert bool(just.run(model, model.x[:1], model.y[:1]).success.all())


def test_radii_per_image() -> None:
    radii = torch.linspace(0.02, 0.3, 8, dtype=torch.float64)
    together = ANPGD(radius=radii)(MODEL, X, Y, generator=SEEDS)
    for row in (0, 3, 7):
        one = slice(row, row + 1)
        alone = ANPGD(radius=float(radii[row]))(MODEL, X[one], Y[one], generator=SEEDS[one])
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-9)


def test_it_costs_what_its_card_says() -> None:
    result = ANPGD(radius=0.2, steps=7, bisections=5).run(MODEL, X, Y, generator=SEEDS)
    assert (result.gradients == 7).all()
    assert (result.forwards[result.success] <= 7 + 5 + 3).all()
    wrong = ANPGD().run(MODEL, X, (Y + 1) % 10, generator=SEEDS)
    assert torch.equal(wrong.x_adv, X)
    assert (wrong.forwards == 1).all()


def test_what_it_cannot_do_is_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"norm": L0}, "got L0. For L0 use JSMA"),
        ({"steps": 0}, "needs steps >= 1"),
        ({"bisections": 0}, "needs bisections >= 1"),
        ({"eps_max": math.nan}, "eps_max finite and > 0"),
        ({"loss": KL()}, "compares with the clean logits"),
    ]
    for settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            ANPGD(**settings)
    with pytest.raises(ValueError, match="radius >= 0"):
        replace(ANPGD(), radius=-0.1)(MODEL, X, Y)

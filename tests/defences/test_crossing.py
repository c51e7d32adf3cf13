"""The crossing of a boundary on which MMA trains, by AN-PGD, against closed forms of linear models."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from affine import affine
from steelman import ANPGD
from steelman.losses import CrossEntropy, Margin
from steelman.norms import L2, Linf, Norm

norms = pytest.mark.parametrize("norm", [Linf, L2], ids=repr)


@norms
@pytest.mark.parametrize("share", [0.3, 1.0, 3.0])
def test_the_crossing_is_the_closed_form_whatever_the_radius(norm: Norm, share: float) -> None:
    model = affine(1, classes=2)
    nearest = model.nearest(norm)
    attack = ANPGD(share * nearest, eps_max=4 * float(nearest.max()), norm=norm, steps=60, bisections=24)
    _, length = attack.crossing(model, model.x, model.y, generator=torch.arange(24))
    torch.testing.assert_close(
        length, nearest, rtol=1e-3 if norm is Linf else 0.03, atol=0
    )  # L2 forgets its start slowly
    point, length = replace(attack, random_start=False).crossing(model, model.x, model.y)
    torch.testing.assert_close(length, nearest, rtol=1e-3, atol=0)
    torch.testing.assert_close(norm.size(point - model.x), length)
    logits = model(point)
    torch.testing.assert_close(logits[:, 0], logits[:, 1], rtol=0, atol=1e-5)


def test_every_bisection_halves_the_error_and_without_a_crossing_the_length_is_the_largest() -> None:
    model = affine(1, classes=2)
    nearest = model.nearest(Linf)
    for bisections in (1, 4, 10):
        attack = ANPGD(0.5 * nearest, eps_max=1.0, steps=20, bisections=bisections)
        _, length = attack.crossing(model, model.x, model.y, generator=torch.arange(24))
        error = (length - nearest).abs()
        assert bool((error <= (1 - 0.5 * nearest) / 2**bisections + 1e-9).all())
        assert bool((error > 0).all())
    short = 0.9 * float(nearest.min())
    _, length = ANPGD(0.5 * nearest, eps_max=short).crossing(model, model.x, model.y, generator=torch.arange(24))
    assert bool((length >= (1 - 2**-10) * short).all())


def test_the_model_is_queried_on_clipped_images_but_the_point_is_not_clipped() -> None:
    """One of two pixels stops at the end of the box, so the other goes further than it would have had to."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([torch.full_like(x[:, 0], 1.6), x.sum(1)], 1)

    x = torch.tensor([[0.95, 0.5]], dtype=torch.float64)
    attack = ANPGD(0.02, eps_max=1.0, steps=5, bisections=30)
    point, length = attack.crossing(model, x, torch.tensor([0]), generator=torch.tensor([0]))
    torch.testing.assert_close(point, torch.tensor([[1.05, 0.6]], dtype=torch.float64), rtol=0, atol=1e-6)
    assert length.item() == pytest.approx(0.1, abs=1e-6)


def test_the_sides_are_those_of_the_loss() -> None:
    """Against three equal rivals, SoftMargin crosses at half of the softmax, Margin at a tie."""

    def model(x: Tensor) -> Tensor:
        return torch.cat([1.5 - 2 * x, 0 * x, 0 * x, 0 * x], 1)

    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0])
    attack = ANPGD(0.1, bisections=30, random_start=False)
    assert attack.crossing(model, x, y)[1].item() == pytest.approx((1.5 - math.log(3)) / 2, abs=1e-6)
    assert replace(attack, loss=Margin()).crossing(model, x, y)[1].item() == pytest.approx(0.75, abs=1e-6)
    with pytest.raises(ValueError, match="does not say where a boundary is"):
        replace(attack, loss=CrossEntropy()).crossing(model, x, y)

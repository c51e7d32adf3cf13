"""DDN against a naive loop over images, its grey levels, its mends and its errors."""

import math

import pytest
import torch
from torch import Tensor, nn

from affine import affine, images, small_net
from every_attack import size
from steelman.attacks import Attack
from steelman.attacks.minimal.ddn import DDN
from steelman.attacks.minimal.fmn import FMN
from steelman.norms import L2, Linf


def naive(model: nn.Module, x: Tensor, label: int, steps: int, gamma: float, norm: float) -> Tensor:
    """Algorithm 1 of the paper for one image, as it is written there."""
    delta, best, shortest = torch.zeros_like(x), x, math.inf
    for step in range(steps):
        here = (x + delta).requires_grad_()
        logits = model(here[None])[0]
        (gradient,) = torch.autograd.grad(-logits.log_softmax(0)[label], here)
        won = int(logits.argmax()) != label
        if won and float(delta.norm()) < shortest:
            best, shortest = here.detach(), float(delta.norm())
        rate = 0.01 + (1 - 0.01) * (1 + math.cos(math.pi * step / steps)) / 2
        delta = delta + rate * gradient / gradient.norm()
        norm = norm * (1 - gamma if won else 1 + gamma)
        delta = (x + norm * delta / delta.norm()).clamp(0, 1) - x
    return best


def test_it_is_the_papers_algorithm_without_look_and_polish() -> None:
    model, x = small_net(), images(6)
    y = model(x).argmax(1)
    x_adv = DDN(steps=30, gamma=0.1, init_norm=0.7, classes=0, polish=0)(model, x, y)
    expected = torch.stack([naive(model, x[row], int(y[row]), 30, 0.1, 0.7) for row in range(6)])
    assert bool((expected != x).flatten(1).any(1).all())
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("levels", [256, 16])
def test_returned_images_have_grey_levels_and_succeed(levels: int) -> None:
    model = small_net(torch.float32)
    x = (images(12, torch.float32) * (levels - 1)).round() / (levels - 1)
    y = model(x).argmax(1)
    result = DDN(steps=40, levels=levels).run(model, x, y)
    assert torch.equal(result.x_adv, (result.x_adv * (levels - 1)).round() / (levels - 1))
    assert bool(result.success.all())
    free = DDN(steps=40).run(model, x, y)
    assert not torch.equal(free.x_adv, (free.x_adv * (levels - 1)).round() / (levels - 1))
    assert float((result.l2 / free.l2).median()) > 1


def test_grey_levels_divide_any_box() -> None:
    model, x = small_net(torch.float32), 2 * images(6, torch.float32) - 1
    y = model(x).argmax(1)
    x_adv = DDN(steps=40, levels=11, box=(-1.0, 1.0))(model, x, y)
    moved = (x_adv != x).flatten(1).any(1)
    assert bool(moved.any())
    places = (x_adv[moved] + 1) * 5
    torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_finds_the_optimum_within_the_box(seed: int, dtype: torch.dtype) -> None:
    model = affine(seed, edge=True)
    x, optimum = model.x.to(dtype), model.nearest_in_box(L2)
    result = DDN(steps=30).run(model, x, model.y)
    assert bool(result.success.all())
    assert (size(L2, result.x_adv, x) <= 1.005 * optimum + 1e-6).all()


def test_without_look_and_polish_it_does_not() -> None:
    model = affine(0, images=40)
    optimum = model.nearest(L2)
    worst = {
        attack: float((size(L2, attack(model, model.x, model.y), model.x) / optimum).max())
        for attack in (DDN(), DDN(classes=0), DDN(classes=0, polish=0))
    }
    assert list(worst.values()) == pytest.approx([1.0001, 1.5, 6.3], rel=0.05)


def plateau(x: Tensor) -> Tensor:
    """Grey images are on a plateau of radius .8; beyond 1.07 the second class wins."""
    square = (x - 0.5).flatten(1).square().sum(1)
    return torch.stack([torch.full_like(square, 0.5), (square - 0.64).relu()], 1)


@pytest.mark.parametrize("attack", [DDN(), FMN(), FMN(norm=Linf), DDN(classes=0), FMN(classes=0)], ids=str)
def test_a_gradient_of_0_does_not_stop_it(attack: Attack) -> None:
    x, y = torch.full((6, 1, 8, 8), 0.5), torch.zeros(6, dtype=torch.int64)
    result = attack.run(plateau, x, y, generator=torch.arange(6))
    assert bool(result.success.all())
    assert (result.l2 <= 1.05 * 1.14**0.5).all() or attack.measured_in is Linf
    assert not torch.equal(result.x_adv[0], result.x_adv[1])  # in directions of their own


def test_a_saturated_softmax_does_not_stop_it() -> None:
    """Gradients of 1e-30, whose squares underflow in float32."""
    model = affine(1, images=8)
    x = model.x.float()
    result = DDN(steps=50, classes=0).run(lambda z: 60 * model(z), x, model.y)
    assert bool(result.success.all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": Linf}, "DDN needs norm=L2; got Linf. FMN"),
        ({"steps": 0}, "steps >= 1"),
        ({"gamma": 1.0}, r"gamma in \(0, 1\)"),
        ({"init_norm": 0.0}, "init_norm > 0"),
        ({"init_norm": float("inf")}, "init_norm finite and > 0"),
        ({"classes": -1}, "classes >= 0"),
        ({"polish": -1}, "polish >= 0"),
        ({"levels": 1}, "levels >= 2"),
        ({"levels": 256, "box": None}, "a box to divide"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DDN(**settings)

"""ALMA against a naive loop with autograd through the penalty; its mends and its errors."""

import math

import pytest
import torch
from torch import Tensor, nn

from affine import affine, images, small_net
from every_attack import size
from steelman.attacks.minimal.alma import ALMA
from steelman.norms import L0, L1, L2, Norm


def penalty(v: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """P2 of the paper's appendix."""
    if float(v.detach()) >= 0:
        return mu * v + mu * rho * v**2 + rho**2 * v**3 / 6
    return mu * v / (1 - rho * v)


def naive(model: nn.Module, norm: Norm, x: Tensor, label: int, steps: int, rate: float, check: int) -> Tensor:
    """Algorithm 1 of the paper for one image."""
    power = 2 if norm is L2 else 1
    delta, best, shortest, since = torch.zeros_like(x), x, math.inf, steps + 1
    mu, rho, checked = torch.ones(()).to(x), torch.ones(()).to(x), math.inf
    squares, momentum = torch.ones_like(x), torch.zeros_like(x)
    for step in range(steps):
        d = delta.clone().requires_grad_()
        logits = model((x + d)[None])[0]
        top = logits.sort(descending=True).values
        v = (logits[label] - logits[[k for k in range(10) if k != label]].max()) / (top[0] - top[2] + 1e-8)
        length = d.norm(p=power)
        if int(logits.argmax()) != label:
            since = min(since, step)
            if length.item() < shortest:
                best, shortest = (x + d).detach(), length.item()
        if step == 0:
            checked = v.item()
        elif (step + 1) % check == 0:
            if shortest == math.inf and v.item() >= 0.95 * checked:
                rho = 1.2 * rho
            checked = v.item()
        if step:
            slope_at = v.detach().requires_grad_()
            (slope,) = torch.autograd.grad(penalty(slope_at, rho, mu), slope_at)
            mu = (0.9 * mu + 0.1 * slope).clamp(1e-6, 1e12)
        loss = penalty(v, rho, mu) + (length if step else 0)
        (gradient,) = torch.autograd.grad(loss, d)
        squares = 0.9 * squares + 0.1 * gradient**2
        momentum = 0.9 * momentum + gradient / (squares.sqrt() + 1e-8)
        decay = 0.01 ** (max(step - since, 0) / (steps - since))
        delta = (x + delta - rate * decay * momentum).clamp(0, 1) - x
    return best


@pytest.mark.parametrize(("rate", "check"), [(0.02, 10), (0.002, 3)])
@pytest.mark.parametrize("norm", [L2, L1], ids=repr)
def test_it_is_the_papers_algorithm_without_look_and_polish(norm: Norm, rate: float, check: int) -> None:
    """Small steps and frequent checks let rho grow."""
    model, x = small_net(), images(5)
    y = model(x).argmax(1)
    x_adv = ALMA(norm=norm, steps=30, step_size=rate, check=check, classes=0, polish=0)(model, x, y)
    expected = torch.stack([naive(model, norm, x[row], int(y[row]), 30, rate, check) for row in range(5)])
    assert int((expected != x).flatten(1).any(1).sum()) >= 3
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [L2, L1], ids=repr)
def test_it_finds_the_optimum_within_the_box(norm: Norm, dtype: torch.dtype) -> None:
    model = affine(0, edge=True)
    x, optimum = model.x.to(dtype), model.nearest_in_box(norm)
    result = ALMA(norm=norm, steps=20).run(model, x, model.y)
    assert bool(result.success.all())
    assert (size(norm, result.x_adv, x) <= 1.005 * optimum + 1e-6).all()


def test_without_the_look_it_still_succeeds() -> None:
    model = affine(1, images=12, edge=True)
    result = ALMA(steps=100, classes=0).run(model, model.x, model.y)
    assert bool(result.success.all())
    assert float((result.l2 / model.nearest_in_box(L2)).median()) <= 1.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": L0}, "needs norm=L2 or L1; got L0"),
        ({"steps": 0}, "steps >= 1"),
        ({"check": 0}, "check >= 1"),
        ({"alpha": 1.0}, r"alpha in \(0, 1\)"),
        ({"improvement": 1.5}, r"improvement in \(0, 1\]"),
        ({"growth": 0.5}, "growth >= 1"),
        ({"classes": -1}, "classes >= 0"),
        ({"step_size": -1.0}, "step_size > 0"),
        ({"polish": -1}, "polish >= 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ALMA(**settings)

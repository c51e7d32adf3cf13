"""SigmaZero against a naive loop with torch's own Adam; its mends and its errors."""

import math

import pytest
import torch
from torch import Tensor, nn

from affine import affine, images, small_net
from every_attack import size
from steelman.attacks.minimal.sigma_zero import SigmaZero
from steelman.norms import L0, L2


def naive(model: nn.Module, x: Tensor, label: int, steps: int, target: int | None = None) -> Tensor:
    """Algorithm 1 of the paper for one image, with autograd through the count."""
    delta = torch.zeros_like(x, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=1.0)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=steps, eta_min=0.1)
    best, fewest, tau = x, math.inf, 0.3
    for _ in range(steps):
        logits = model((x + delta)[None])[0]
        pivot = label if target is None else target
        gap = logits[pivot] - logits[[k for k in range(10) if k != pivot]].max()
        gap = gap if target is None else -gap
        loss = gap.clamp(min=0) + (delta**2 / (delta**2 + 1e-3)).mean()
        won = int(logits.argmax()) != label if target is None else int(logits.argmax()) == target
        changed = int((delta != 0).sum())
        if won and changed < fewest:
            best, fewest = (x + delta).detach(), changed
        (gradient,) = torch.autograd.grad(loss, delta)
        delta.grad = gradient / gradient.abs().max()
        adam.step()
        rates.step()
        tau = min(max(tau + (0.01 if won else -0.01) * rates.get_last_lr()[0], 0), 1)
        with torch.no_grad():
            delta.copy_((x + delta).clamp(0, 1) - x)
            delta[delta.abs() < tau] = 0
    return best


@pytest.mark.parametrize("targeted", [False, True])
def test_it_is_the_papers_algorithm_without_look_and_polish(targeted: bool) -> None:
    model, x = small_net(), images(6)
    y = model(x).argmax(1)
    target = (y + 3) % 10 if targeted else None
    x_adv = SigmaZero(steps=25, classes=0, polish=0)(model, x, y, target=target)
    goals = [None] * 6 if target is None else target.tolist()
    expected = torch.stack([naive(model, x[row], int(y[row]), 25, goals[row]) for row in range(6)])
    assert int((expected != x).flatten(1).any(1).sum()) >= 3
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(2))
def test_it_finds_the_fewest_entries_within_the_box(seed: int, dtype: torch.dtype) -> None:
    model = affine(seed, edge=True)
    x, optimum = model.x.to(dtype), model.nearest_in_box(L0)
    result = SigmaZero(steps=20).run(model, x, model.y)
    assert bool(result.success.all())
    assert torch.equal(size(L0, result.x_adv, x).double(), optimum.double())


def test_the_polish_takes_entries_away() -> None:
    model, x = small_net(), images(24)
    y = model(x).argmax(1)
    plain = SigmaZero(steps=15, classes=0, polish=0).run(model, x, y)
    polished = SigmaZero(steps=16, classes=0).run(model, x, y)
    assert torch.equal(plain.success, polished.success)
    assert (polished.l0 <= plain.l0).all()
    assert float(polished.l0.mean()) < float(plain.l0.mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": L2}, "SigmaZero needs norm=L0; got L2"),
        ({"steps": 0}, "steps >= 1"),
        ({"step_size": 0.0}, "step_size > 0"),
        ({"sigma": -1.0}, "sigma > 0"),
        ({"threshold": 1.5}, r"threshold in \[0, 1\]"),
        ({"classes": -1}, "classes >= 0"),
        ({"polish": -1}, "polish >= 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SigmaZero(**settings)

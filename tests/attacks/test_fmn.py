"""FMN against a naive loop over images, in every norm; its mends and its errors."""

import math

import pytest
import torch
from torch import Tensor, nn

from affine import affine, images, small_net
from every_attack import size
from steelman.attacks.minimal.fmn import FMN
from steelman.norms import L0, L1, L2, Linf, Norm

NORMS = pytest.mark.parametrize("norm", [L2, Linf, L1, L0], ids=repr)


def onto_ball(norm: Norm, d: Tensor, radius: float) -> Tensor:
    """By other ways than the package's: L1 by bisection of the threshold, L0 by a loop."""
    if norm is Linf:
        return d.clamp(-radius, radius)
    if norm is L2:
        return d if float(d.norm()) <= radius else d * (radius / d.norm())
    if norm is L0:
        kept = torch.zeros_like(d)
        for place in d.abs().argsort(descending=True)[: int(min(radius, len(d)))].tolist():
            kept[place] = d[place]
        return kept
    low, high = 0.0, float(d.abs().max())
    if float(d.abs().sum()) <= radius:
        return d
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if float((d.abs() - middle).clamp(min=0).sum()) > radius else (low, middle)
    return d.sign() * (d.abs() - high).clamp(min=0)


def naive(model: nn.Module, norm: Norm, x: Tensor, label: int, steps: int) -> Tensor:
    """Algorithm 1 of the paper for one flat image, but to the box before the ball."""
    shape, dual = x.shape, {L2: 2.0, Linf: 1.0, L1: math.inf}.get(norm, 0.0)
    x = x.flatten()
    delta, best, shortest, radius = torch.zeros_like(x), x, math.inf, 1.0 if norm is L0 else math.inf
    for step in range(steps):
        here = (x + delta).requires_grad_()
        logits = model(here.reshape(1, *shape))[0]
        gap = logits[[k for k in range(10) if k != label]].max() - logits[label]
        (gradient,), margin = torch.autograd.grad(gap, here), gap.item()
        length = float(size(norm, delta[None], torch.zeros_like(delta[None])))
        won = int(logits.argmax()) != label
        if won and length < shortest:
            best, shortest = here.detach(), length
        half = (1 + math.cos(math.pi * step / steps)) / 2
        rate, gamma = 0.01 + 0.99 * half, 0.001 + 0.049 * half
        if norm is L0 and won:
            radius = min(radius - 1, math.floor(radius * (1 - gamma)), shortest)
        elif norm is L0:
            radius = max(radius + 1, math.floor(radius * (1 + gamma)))
        elif won:
            radius = min(radius * (1 - gamma), shortest)
        elif shortest < math.inf:
            radius = radius * (1 + gamma)
        else:
            hair = 1e-4 * abs(margin) + 32 * torch.finfo(x.dtype).eps * logits.detach().abs().max().item()
            radius = length + (abs(margin) + hair) / float(gradient.norm(p=dual))
        moved = (x + delta + rate * gradient / gradient.norm()).clamp(0, 1)
        delta = onto_ball(norm, moved - x, max(radius, 0))
    return best.reshape(shape)


@NORMS
def test_it_is_the_papers_algorithm_without_look_and_polish(norm: Norm) -> None:
    model, x = small_net(), images(5)
    y = model(x).argmax(1)
    x_adv = FMN(norm=norm, steps=30, classes=0, polish=0)(model, x, y)
    expected = torch.stack([naive(model, norm, x[row], int(y[row]), 30) for row in range(5)])
    assert int((expected != x).flatten(1).any(1).sum()) >= 4
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-8)


@NORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_finds_the_optimum_within_the_box(norm: Norm, dtype: torch.dtype) -> None:
    model = affine(0, edge=True)
    x, optimum = model.x.to(dtype), model.nearest_in_box(norm)
    result = FMN(norm=norm, steps=25).run(model, x, model.y)
    assert bool(result.success.all())
    assert (size(norm, result.x_adv, x) <= 1.005 * optimum + 1e-6).all()


def test_the_box_does_not_stall_it() -> None:
    """To the ball before the box, L2 fails where much of each step leaves the box; the start at x is the hard one."""
    model, x = small_net(), images(24)
    x = x.round()  # all pixels are black or white: half of every step leaves the box
    y = model(x).argmax(1)
    assert bool(FMN(steps=40, classes=0, polish=0).run(model, x, y).success.all())


@NORMS
def test_look_and_polish_do_no_harm(norm: Norm) -> None:
    model, x = small_net(), images(24)
    y = model(x).argmax(1)
    plain = FMN(norm=norm, steps=30, classes=0, polish=0).run(model, x, y)
    polished = FMN(norm=norm, steps=32, classes=0, polish=2).run(model, x, y)
    whole = FMN(norm=norm, steps=40).run(model, x, y)
    assert int(whole.success.sum()) >= max(int(plain.success.sum()), 23)
    assert torch.equal(plain.success, polished.success)
    length = {L2: "l2", Linf: "linf", L1: "l1", L0: "l0"}[norm]
    assert (getattr(polished, length) <= getattr(plain, length)).all()
    assert float(getattr(whole, length)[whole.success].median()) <= float(
        getattr(plain, length)[plain.success].median()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"gamma": 0.0}, r"gamma in \(0, 1\)"),
        ({"step_size": float("inf")}, "step_size finite and > 0"),
        ({"classes": -1}, "classes >= 0"),
        ({"polish": -1}, "polish >= 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FMN(**settings)

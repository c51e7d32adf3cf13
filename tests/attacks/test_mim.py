"""MIM against its formula."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from affine import images, small_net
from steelman.attacks import MIM, PGD
from steelman.losses import KL, CrossEntropy, Goal
from steelman.norms import L2, Linf, Norm

MODEL = small_net()
X = images(8)
Y = MODEL(X).argmax(1)


def slope(x: Tensor, target: Tensor | None) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(CrossEntropy()(MODEL(x), Goal(Y, target)).sum(), x)[0]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_it_is_dongs_recursion(targeted: bool, decay: float) -> None:
    target, eps, steps = (Y + 1) % 10 if targeted else None, 0.1, 6
    x, momentum = X, torch.zeros_like(X)
    for _ in range(steps):
        gradient = slope(x, target)
        momentum = decay * momentum + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)  # the paper's |g|_1
        x = (X + (x + eps / steps * momentum.sign() - X).clamp(-eps, eps)).clamp(0, 1)
    found = MIM(eps=eps, steps=steps, decay=decay)(MODEL, X, Y, target=target)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


def test_the_first_step_of_l2_is_along_the_gradient() -> None:
    grey = 0.4 + 0.2 * X  # where the box does not bind
    labels = MODEL(grey).argmax(1)
    x = grey.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(CrossEntropy()(MODEL(x), Goal(labels)).sum(), x)
    found = MIM(eps=0.3, steps=1, norm=L2)(MODEL, grey, labels)
    torch.testing.assert_close(found, grey + 0.3 * L2.steepest(gradient), rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", [Linf, L2], ids=repr)
def test_without_memory_it_is_pgd(norm: Norm) -> None:
    eps = 0.1 if norm is Linf else 0.5
    found = MIM(eps=eps, norm=norm, decay=0.0)(MODEL, X, Y)
    plain = PGD(eps=eps, norm=norm, step_size=eps / 10, random_start=False)(MODEL, X, Y)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-9)
    assert not torch.allclose(MIM(eps=eps, norm=norm)(MODEL, X, Y), plain, atol=1e-4)


def test_tiny_gradients_keep_their_direction() -> None:
    model = small_net(torch.float32)
    x, y = X.float(), Y
    whole = MIM(eps=0.1)(model, x, y)
    tiny = MIM(eps=0.1, loss=CrossEntropy())(lambda z: 1e-30 * model(z), x, y)
    assert float((whole != x).double().mean()) > 0.5
    assert float((tiny != x).double().mean()) > 0.5


def test_early_leave_costs_no_success_and_fewer_passes() -> None:
    attack = MIM(eps=0.1, steps=8)
    plain, early = attack.run(MODEL, X, Y), replace(attack, stop_early=True).run(MODEL, X, Y)
    assert 0 < int(plain.success.sum()) < 8
    assert bool((early.success | ~plain.success).all())
    assert int(early.gradients.sum()) < int(plain.gradients.sum())
    still = ~early.success
    torch.testing.assert_close(early.x_adv[still], plain.x_adv[still], rtol=0, atol=1e-9)


def test_what_it_cannot_do_is_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"steps": -1}, "steps >= 0; got -1"),
        ({"decay": -0.1}, "decay >= 0; got -0.1"),
        ({"decay": float("nan")}, "decay finite and >= 0; got nan"),
        ({"step_size": -1.0}, "step_size >= 0; got -1.0"),
    ]
    for settings, message in wrong:
        with pytest.raises(ValueError, match=f"MIM needs {message}"):
            MIM(**settings)
    with pytest.raises(ValueError, match="KL has no gradient at the clean image"):
        MIM(loss=KL())

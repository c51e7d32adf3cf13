"""Szegedy's attack: its minimiser against SciPy's, its losses against formulas, leaving images."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from affine import affine, images, small_net
from steelman.attacks import LBFGS
from steelman.attacks.minimal.lbfgs import _loss, minimise
from steelman.losses import Goal
from steelman.norms import L2, Linf

MODEL = small_net()


@pytest.mark.parametrize("box", [(0.0, 1.0), None], ids=repr)
def test_the_minimiser_ends_where_scipys_does(box: Any) -> None:
    """On ill-conditioned quadratics, whose minima lie partly outside the box; every row for itself."""
    generator = torch.Generator().manual_seed(2)
    scale = 10 ** torch.linspace(0, 2, 8, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    matrix = turn @ torch.diag(scale) @ turn.T
    centre = 1.5 * torch.rand(5, 8, generator=generator, dtype=torch.float64)
    rows_asked = torch.zeros(5, dtype=torch.int64)

    def slope(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        rows_asked[rows] += 1
        delta = x - centre[rows]
        return ((delta @ matrix) * delta).sum(1) / 2, delta @ matrix

    start = torch.full((5, 8), 0.5, dtype=torch.float64)
    end = minimise(slope, start, box, steps=300, memory=10)
    for row in range(5):
        one = torch.tensor([row])

        def value(x: np.ndarray, one: Tensor = one) -> tuple[float, np.ndarray]:
            number, gradient = slope(torch.from_numpy(x)[None], one)
            return float(number), gradient[0].numpy()

        other = minimize(value, start[row].numpy(), jac=True, method="L-BFGS-B", bounds=box and [box] * 8, tol=1e-12)
        ours = float(slope(end[one], one)[0])
        assert ours <= float(other.fun) * (1 + 1e-3) + 1e-4
    assert int(rows_asked.max()) < 300


def test_losses_by_formula() -> None:
    logits = torch.tensor([[1.0, 2.0, -0.5], [0.3, -1.0, 4.0]], dtype=torch.float64)
    shares = logits.softmax(1)
    y = torch.tensor([1, 2])
    torch.testing.assert_close(_loss(logits, Goal(y)), -(1 - shares[[0, 1], y]).log())
    target = torch.tensor([0, 1])
    torch.testing.assert_close(_loss(logits, Goal(y, target)), -shares[[0, 1], target].log())


@pytest.mark.parametrize("targeted", [False, True])
def test_the_search_ends_where_distance_and_loss_are_least(targeted: bool) -> None:
    smooth, c, asked = affine(0, images=1), 3.0, list[Tensor]()
    x, y = smooth.x, smooth.y
    goal = Goal(y, (y + 1) % 10 if targeted else None)

    def model(z: Tensor) -> Tensor:
        asked.append(z.detach().clone())
        return smooth(z)

    LBFGS(steps=300, search_steps=1, c=c, polish=0, box=None)(model, x, y, target=goal.target)
    end = asked[-1].requires_grad_()
    terms = (end - x).square().sum(), c * _loss(smooth(end), goal).sum()
    slopes = [torch.autograd.grad(each, end)[0] for each in terms]
    assert float(slopes[0].norm()) > 0.1
    assert float((slopes[0] + slopes[1]).norm()) < 0.02 * float(slopes[0].norm())


@pytest.mark.parametrize("targeted", [False, True])
def test_more_search_never_lengthens(targeted: bool) -> None:
    x = images(6, seed=6)
    y = MODEL(x).argmax(1)
    target = (y + 1) % 10 if targeted else None
    few, many = (LBFGS(steps=8, search_steps=n, polish=0).run(MODEL, x, y, target=target) for n in (2, 4))
    assert bool(few.success.any())
    assert bool((many.success | ~few.success).all())
    assert bool((many.l2 <= few.l2 + 1e-9)[few.success].all())


def test_images_leave_when_they_have_converged() -> None:
    model = affine(0, images=12)
    result = LBFGS(steps=200, search_steps=3).run(model, model.x, model.y)
    assert len(result.gradients.unique()) > 1
    assert int(result.gradients.max()) < 300


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": Linf}, "needs norm=L2; got Linf"),
        ({"memory": 0}, "memory"),
        ({"c": 0.0}, "c > 0"),
        ({"steps": 0}, "steps"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LBFGS(**settings)
    assert LBFGS(norm=L2) == LBFGS()

"""The nearest point of a plane in a box against bisection and greedy search; the polish."""

import pytest
import torch

from affine import _smallest_in_box, affine, images, small_net  # pyright: ignore[reportPrivateUsage]
from every_attack import size
from steelman.attacks.core.oracle import Oracle
from steelman.attacks.minimal.nearest import onto_plane, polish
from steelman.losses import Goal
from steelman.norms import L0, L1, L2, Linf, Norm

NORMS = pytest.mark.parametrize("norm", [Linf, L2, L1, L0], ids=repr)


@NORMS
@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_the_nearest_point_of_a_plane_within_the_box(norm: Norm, scale: float) -> None:
    x = images(40, seed=3)
    slope = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope[:, :, 0] = 0
    most = torch.maximum(slope * (1 - x), -slope * x).flatten(1).sum(1)
    gap = most * torch.linspace(0.01, 0.99, 40, dtype=torch.float64)
    step = onto_plane(norm, x, scale * slope, scale * gap, (0.0, 1.0))
    assert bool(((x + step >= -1e-12) & (x + step <= 1 + 1e-12)).all())
    assert ((slope * step).flatten(1).sum(1) >= gap - 1e-9).all()
    expected = [_smallest_in_box(norm, x[row].flatten(), slope[row].flatten(), float(gap[row])) for row in range(40)]
    torch.testing.assert_close(size(norm, x + step, x).double(), torch.tensor(expected).double(), rtol=1e-6, atol=1e-9)


@NORMS
def test_a_plane_out_of_reach_and_one_already_passed(norm: Norm) -> None:
    x = images(5)
    slope = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    corner = (slope > 0).double()
    torch.testing.assert_close(x + onto_plane(norm, x, slope, torch.full((5,), 1e3).double(), (0.0, 1.0)), corner)
    assert not bool(onto_plane(norm, x, slope, -torch.ones(5).double(), (0.0, 1.0)).any())
    assert not bool(onto_plane(norm, x, 0 * slope, torch.ones(5).double(), (0.0, 1.0)).any())


@NORMS
def test_without_a_box_it_is_the_dual_norm(norm: Norm) -> None:
    x = images(5)
    slope = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = onto_plane(norm, x, slope, torch.full((5,), 2.0).double(), None)
    torch.testing.assert_close((slope * step).flatten(1).sum(1), torch.full((5,), 2.0).double())
    dual = {Linf: 1.0, L2: 2.0, L1: float("inf")}
    expected = 2 / slope.flatten(1).norm(p=dual[norm], dim=1) if norm in dual else torch.ones(5).double()
    torch.testing.assert_close(size(norm, x + step, x).double(), expected)


@NORMS
def test_a_polish_shortens_and_still_succeeds(norm: Norm) -> None:
    model, x = small_net(), images(12)
    goal = Goal(model(x).argmax(1))
    far = images(12, seed=9)
    with torch.no_grad():
        won = torch.where(goal.reached(model(far)))[0]
    x, far, goal = x[won], far[won], goal[won]
    with Oracle(model, goal) as oracle:
        near = polish(oracle, x, far, goal, norm, (0.0, 1.0), 2, torch.arange(len(x)))
        assert bool(goal.reached(model(near)).all())
    assert (size(norm, near, x) <= size(norm, far, x)).all()
    assert float((size(norm, near, x) / size(norm, far, x)).median()) < 0.7


@pytest.mark.parametrize("norm", [Linf, L2, L1], ids=repr)
@pytest.mark.parametrize("edge", [False, True])
def test_of_two_affine_classes_one_polish_ends_at_the_nearest_point(norm: Norm, edge: bool) -> None:
    model = affine(1, classes=2, edge=edge)
    goal, nearest = Goal(model.y), model.nearest_in_box(norm)
    slope = torch.stack([model.slopes(row, 1 - int(model.y[row]))[0] for row in range(24)]).reshape(model.x.shape)
    far = norm.furthest(model.x, slope, 1.5 * nearest, (0.0, 1.0))
    with Oracle(model, goal) as oracle:
        near = polish(oracle, model.x, far, goal, norm, (0.0, 1.0), 1, torch.arange(24))
    torch.testing.assert_close(size(norm, near, model.x), nearest, rtol=1e-3, atol=1e-6)

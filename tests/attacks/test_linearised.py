"""The shortest step onto a plane within the box, against linear programs and bisection; the nearest boundary."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from affine import images, small_net
from steelman.attacks.core.oracle import Oracle
from steelman.attacks.minimal.linearised import Boundaries, rivals, shortest_step, size
from steelman.losses import Goal

BOX = (0.0, 1.0)


def planes(seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Points of which a third of the entries are at the box, slopes of which some are 0, and gaps of both signs."""
    generator = torch.Generator().manual_seed(seed)
    x = images(30, seed=seed)
    slope = torch.randn(30, 1, 4, 6, generator=generator, dtype=torch.float64)
    slope[:, :, 0, ::2] = 0
    gap = slope.flatten(1).norm(dim=1) * torch.randn(30, generator=generator, dtype=torch.float64)
    return x, scale * slope, scale * gap


def by_program(x: np.ndarray, slope: np.ndarray, gap: float, p: float) -> float:
    """The smallest norm as a linear program; infinite where the box has no point of the plane."""
    n, low, high = len(x), -x, 1 - x
    if p == 1:
        ends = [*((0, h) for h in high), *((0, -below) for below in low)]
        solved = linprog(np.ones(2 * n), A_eq=[np.r_[slope, -slope]], b_eq=[-gap], bounds=ends)
    else:
        size_of = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
        solved = linprog(
            np.r_[np.zeros(n), 1],
            A_eq=[np.r_[slope, 0]],
            b_eq=[-gap],
            A_ub=size_of,
            b_ub=np.zeros(2 * n),
            bounds=[*zip(low, high, strict=True), (0, None)],
        )
    return solved.fun if solved.status == 0 else math.inf


def by_bisection(x: np.ndarray, slope: np.ndarray, gap: float, p: float) -> float:
    """By Lagrange, with the multiplier by bisection."""
    way = -slope * np.sign(gap)

    def step(t: float) -> np.ndarray:
        return (np.sign(way) * t * np.abs(way) ** (1 / (p - 1))).clip(-x, 1 - x)

    low, high = 0.0, 1e9
    if step(high) @ way < abs(gap):
        return math.inf
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if step(middle) @ way >= abs(gap) else (middle, high)
    return float(np.linalg.norm(step(high), p))


@pytest.mark.parametrize("p", [math.inf, 2.0, 1.0, 1.3, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_step_is_the_shortest_in_the_box(p: float, seed: int) -> None:
    x, slope, gap = planes(seed)
    step = shortest_step(x, slope, gap, p, BOX)
    moved = x + step
    assert bool((moved >= -1e-15).all() & (moved <= 1 + 1e-15).all())
    gained = (slope * step).flatten(1).sum(1)
    reference = by_program if p in (1, math.inf) else by_bisection
    out_of_reach = 0
    for row in range(len(x)):
        smallest = reference(x[row].flatten().numpy(), slope[row].flatten().numpy(), float(gap[row]), p)
        if smallest < math.inf:
            np.testing.assert_allclose(float(gained[row]), -float(gap[row]), rtol=1e-9)
            np.testing.assert_allclose(float(size(step, p)[row]), smallest, rtol=1e-6)
        else:  # the corner
            out_of_reach += 1
            corner = torch.where(slope[row] * gap[row] < 0, 1.0, 0.0)
            corner = torch.where(slope[row] == 0, x[row], corner)
            torch.testing.assert_close(moved[row], corner, rtol=0, atol=1e-12)
    assert out_of_reach < 15


@pytest.mark.parametrize("p", [math.inf, 2.0, 1.0, 1.3, 3.0])
def test_without_a_box_it_is_the_closed_form(p: float) -> None:
    x, slope, gap = planes(0)
    q = {math.inf: 1.0, 1.0: math.inf}.get(p, p / (p - 1) if p > 1 else 0)
    step = shortest_step(x, slope, gap, p, None)
    torch.testing.assert_close(size(step, p), gap.abs() / torch.linalg.vector_norm(slope.flatten(1), q, dim=1))
    torch.testing.assert_close((slope * step).flatten(1).sum(1), -gap)


@pytest.mark.parametrize("p", [math.inf, 2.0, 1.0])
@pytest.mark.parametrize("box", [BOX, None])
def test_scale_does_not_matter_and_zeros_do_no_harm(p: float, box: tuple[float, float] | None) -> None:
    x, slope, gap = (part.float() for part in planes(1))
    step = shortest_step(x, slope, gap, p, box)
    for scale in (1e-30, 1e30):  # squares of these are out of float32's range
        torch.testing.assert_close(shortest_step(x, scale * slope, scale * gap, p, box), step, rtol=1e-4, atol=1e-5)
    flat = shortest_step(x, torch.zeros_like(x), gap, p, box)
    assert torch.equal(flat, torch.zeros_like(x))
    assert torch.equal(shortest_step(x, slope, torch.zeros_like(gap), p, box).abs(), torch.zeros_like(x))


@pytest.mark.parametrize("p", [math.inf, 2.0, 1.0])
@pytest.mark.parametrize("slack", [1.0, 1.5, math.inf])
def test_the_nearest_boundary_of_all(p: float, slack: float) -> None:
    """The first step is exact; a second one elsewhere is nearly so, and exact where every class takes part."""
    model, x = small_net(), images(30)
    y = model(x).argmax(1)
    goal, which = Goal(y), torch.arange(30)
    with Oracle(model, goal) as oracle:
        boundaries = Boundaries.around(rivals(model(x), goal, 10), x, p, BOX, slack)
        for turn, here in enumerate((x, (x + 0.03 * images(30, seed=2)).clamp(0, 1))):
            before = oracle.gradients.clone()
            gap, slope, step = boundaries.nearest(oracle, here, goal, which)
            passes = oracle.gradients - before
            distances = []
            for k in range(10):
                image = here.clone().requires_grad_()
                with torch.enable_grad():
                    logits = model(image)
                    value = logits[:, k] - logits.gather(1, y[:, None])[:, 0]
                    w = torch.autograd.grad(value.sum(), image)[0]
                d = shortest_step(here, w, value.detach(), p, BOX)
                reached = ((w * d).flatten(1).sum(1) + value.detach()).abs() < 1e-9
                distances.append(torch.where(reached & (y != k), size(d, p), torch.inf))
            nearest = torch.stack(distances).amin(0)
            exact = torch.isclose(size(step, p), nearest, rtol=1e-9, atol=0)
            torch.testing.assert_close((slope * step).flatten(1).sum(1), -gap)
            if turn == 0 or slack == math.inf:
                assert bool(exact.all())
                assert passes.tolist() == [9] * 30
            else:
                assert float(exact.double().mean()) >= 0.9
                assert float(passes.double().mean()) < 5

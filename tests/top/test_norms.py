"""Each norm against what defines it: nearest points, largest inner products, uniform samples, exact balls."""

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from affine import largest_gain
from steelman.norms import L0, L1, L2, Linf, Norm, inward, per_image
from steelman.randomness import Draws

NORMS = [Linf, L2, L1, L0]
CONVEX = [Linf, L2, L1]
each = pytest.mark.parametrize("norm", NORMS, ids=repr)
each_convex = pytest.mark.parametrize("norm", CONVEX, ids=repr)

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 12)
scales = st.floats(1e-3, 1e3)
radii = st.floats(0, 10)


def noise(seed: int, count: int, pixels: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, pixels, generator=torch.Generator().manual_seed(seed), dtype=dtype) * scale


def draws(count: int, seed: int = 0) -> Draws:
    return Draws.start(torch.Generator().manual_seed(seed), count, torch.device("cpu"))


def largest_inner_product(norm: Norm, gradient: Tensor) -> Tensor:
    """The dual norm, by its textbook form; one entry of size 1 for L0."""
    return {Linf: gradient.abs().sum(1), L2: gradient.square().sum(1).sqrt()}.get(norm, gradient.abs().amax(1))


def test_sizes_by_hand() -> None:
    delta = torch.tensor([[[3.0, -4.0], [0.0, 0.0]]])
    assert [float(norm.size(delta)) for norm in NORMS] == [4, 5, 7, 2]


@each_convex
@given(seed=seeds, pixels=sizes, scale=scales, radius=radii)
@settings(max_examples=40, deadline=None)
def test_projection_lies_in_the_ball_is_idempotent_and_leaves_the_inside(
    norm: Norm, seed: int, pixels: int, scale: float, radius: float
) -> None:
    delta = noise(seed, 5, pixels, scale)
    once = norm.project(delta, radius)
    assert (norm.size(once) <= radius * (1 + 1e-9) + 1e-12).all()
    torch.testing.assert_close(norm.project(once, radius), once, rtol=1e-9, atol=1e-12)
    inside = norm.size(delta) <= radius
    assert torch.equal(once[inside], delta[inside])


@each_convex
@given(seed=seeds, pixels=sizes, radius=st.floats(1e-3, 3))
@settings(max_examples=40, deadline=None)
def test_no_point_of_the_ball_is_nearer_than_the_projection(norm: Norm, seed: int, pixels: int, radius: float) -> None:
    delta = noise(seed, 1, pixels)
    projected = norm.project(delta, radius)
    others = norm.sample(torch.zeros(500, pixels, dtype=torch.float64), radius, draws(500, seed))
    # The optimality condition of a projection onto a convex set: <delta - P, z - P> <= 0 for every z in the set.
    assert ((others - projected) @ (delta - projected).T <= 1e-9).all()
    corners = radius * norm.steepest(delta - projected)
    assert ((corners - projected) * (delta - projected)).sum() <= 1e-9 * (1 + radius)


@pytest.mark.parametrize("seed", range(5))
def test_l1_projection_agrees_with_root_finding(seed: int) -> None:
    delta, radius = noise(seed, 1, 30), 2.5
    magnitude = delta.abs().numpy()
    threshold = optimize.brentq(lambda t: (magnitude - t).clip(0).sum() - radius, 0, magnitude.max(), xtol=1e-14)
    expected = delta.sign() * (delta.abs() - threshold).clamp(min=0)
    torch.testing.assert_close(L1.project(delta, radius), expected, rtol=0, atol=1e-12)


def test_l2_projection_agrees_with_slsqp() -> None:
    delta = noise(3, 1, 4, 2.0)
    solved = optimize.minimize(
        lambda z: ((z - delta.numpy()[0]) ** 2).sum(),
        [0.1] * 4,
        constraints={"type": "ineq", "fun": lambda z: 1 - (z**2).sum()},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    torch.testing.assert_close(L2.project(delta, 1.0)[0], torch.tensor(solved.x), rtol=0, atol=1e-6)


@given(seed=seeds, pixels=sizes, radius=st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_l0_projection_keeps_the_largest_entries(seed: int, pixels: int, radius: int) -> None:
    delta = noise(seed, 4, pixels)
    projected = L0.project(delta, float(radius))
    assert torch.equal(projected[projected != 0], delta[projected != 0])
    for kept, whole in zip(projected, delta, strict=True):
        expected = sorted(whole.abs().tolist(), reverse=True)[:radius]
        assert sorted(kept[kept != 0].abs().tolist(), reverse=True) == expected


@each
@given(seed=seeds, pixels=sizes, scale=st.floats(1e-18, 1e18))
@settings(max_examples=40, deadline=None)
def test_steepest_is_a_unit_step_with_the_largest_inner_product(
    norm: Norm, seed: int, pixels: int, scale: float
) -> None:
    gradient = noise(seed, 3, pixels, scale, torch.float32)
    step = norm.steepest(gradient)
    torch.testing.assert_close(norm.size(step), torch.ones(3), rtol=1e-5, atol=0)
    product = (step.double() * gradient.double()).sum(1)
    torch.testing.assert_close(product, largest_inner_product(norm, gradient.double()), rtol=1e-5, atol=0)
    if norm is not L0:
        others = norm.sample(torch.zeros(200, pixels), 1.0, draws(200, seed)).double()
        assert (others @ gradient.double().T <= product * (1 + 1e-5)).all()


@each
def test_steepest_of_nothing_is_nothing(norm: Norm) -> None:
    assert torch.equal(norm.steepest(torch.zeros(2, 3)), torch.zeros(2, 3))


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_lie_in_the_ball(norm: Norm, dtype: torch.dtype) -> None:
    radius = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64).repeat(100)
    sample = norm.sample(torch.zeros(400, 2, 3, dtype=dtype), radius, draws(400))
    assert sample.dtype == dtype
    assert sample.shape == (400, 2, 3)
    assert (norm.size(sample.double()) <= radius * (1 + 1e-6)).all()
    assert not sample[0].any()
    assert sample[1:4].flatten(1).any(1).all()


@each_convex
@pytest.mark.parametrize("pixels", [1, 2, 7])
def test_samples_fill_the_ball_uniformly(norm: Norm, pixels: int) -> None:
    sample = norm.sample(torch.zeros(4000, pixels, dtype=torch.float64), 2.0, draws(4000))
    # (size / radius)^n is uniform for a uniform sample of any norm's ball in n dimensions.
    assert stats.kstest((norm.size(sample) / 2.0) ** pixels, "uniform").pvalue > 1e-3
    # And no direction is preferred: signs are fair, and so is the order of the entries.
    assert stats.binomtest(int((sample[:, 0] > 0).sum()), 4000).pvalue > 1e-3
    if pixels > 1:
        first = int((sample[:, 0].abs() > sample[:, 1].abs()).sum())
        assert stats.binomtest(first, 4000).pvalue > 1e-3


def test_l1_samples_are_uniform_within_the_ball_of_rejection_sampling() -> None:
    cube = 2 * torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    accepted = cube[cube.abs().sum(1) <= 1]
    sample = L1.sample(torch.zeros(3000, 3, dtype=torch.float64), 1.0, draws(3000))
    for feature in (lambda z: z[:, 0], lambda z: z.abs().amax(1), lambda z: z.norm(dim=1)):
        assert stats.ks_2samp(feature(sample), feature(accepted)).pvalue > 1e-3


def test_l0_samples_choose_every_entry_equally_often() -> None:
    sample = L0.sample(torch.zeros(3000, 6), 2.0, draws(3000))
    assert torch.equal((sample != 0).sum(1), torch.full((3000,), 2))
    assert stats.chisquare((sample != 0).sum(0).numpy()).pvalue > 1e-3


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=seeds, pixels=st.integers(1, 50), radius=st.sampled_from([0.0, 8 / 255, 1 / 3, 0.1, 1.0, 2.7, 1e-5]))
@settings(max_examples=25, deadline=None)
def test_contain_holds_exactly(norm: Norm, dtype: torch.dtype, seed: int, pixels: int, radius: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, pixels, generator=generator, dtype=dtype)
    x_adv = x + norm.project(noise(seed + 1, 4, pixels, 1.0, dtype), radius)
    contained = norm.contain(x, x_adv, radius, (0.0, 1.0))
    assert contained.dtype == dtype
    assert float(contained.min()) >= 0
    assert float(contained.max()) <= 1
    # In double precision, without torch's order of summation.
    for difference in (contained.double() - x.double()).numpy():
        size = {Linf: abs(difference).max(), L1: abs(difference).sum(), L2: (difference**2).sum() ** 0.5}.get(
            norm, (difference != 0).sum()
        )
        assert size <= radius
    if norm is not L0:  # and it is not bought by pulling far
        asked = norm.size((x_adv.clamp(0, 1) - x).double())
        kept = norm.size((contained - x).double())
        assert (kept >= asked * (1 - 1e-4) - 1e-6).all()


def test_contain_pulls_a_point_from_far_outside() -> None:
    x = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    for norm in NORMS:
        far = norm.contain(x, x + 100, 1.0, None)
        assert (norm.size((far - x).double()) <= 1).all()
        assert (norm.size(far - x) > 0.99).all()


@each
def test_per_image_radii_are_those_of_each_image_alone(norm: Norm) -> None:
    delta, radius = noise(0, 4, 6), torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    x = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    some = draws(4)
    for row in range(4):
        one, alone = torch.tensor([row]), float(radius[row])
        assert torch.equal(norm.project(delta, radius)[one], norm.project(delta[one], alone))
        assert torch.equal(norm.sample(x, radius, some)[one], norm.sample(x[one], alone, some[one]))
        both = norm.contain(x, x + delta, radius, (0.0, 1.0))
        assert torch.equal(both[one], norm.contain(x[one], (x + delta)[one], alone, (0.0, 1.0)))


@pytest.mark.parametrize("radius", [-1.0, float("nan"), float("inf"), torch.tensor([0.1, -0.1])])
def test_impossible_radii_are_refused(radius: float | Tensor) -> None:
    with pytest.raises(ValueError, match="eps must be finite and at least 0"):
        per_image(radius, torch.zeros(2, 3))


@pytest.mark.parametrize("radius", [torch.ones(3), torch.ones(2, 1), torch.ones(1, 2, 1)])
def test_radii_of_another_shape_are_refused(radius: Tensor) -> None:
    with pytest.raises(ValueError, match=r"one number or one per image, of shape \(2,\)"):
        per_image(radius, torch.zeros(2, 3, 4))


# --- ball and box together


def edges(seed: int, count: int, pixels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images of which half the entries are at the ends of the box."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(count, pixels, generator=generator, dtype=dtype) - 0.5).clamp(0, 1)


def projected(norm: Norm, x: Tensor, x_adv: Tensor, radius: float) -> Tensor:
    """One image, by root finding on Lagrange's multiplier; by brute force over supports for L0."""
    delta = x_adv - x

    def moved(some: tuple[int, ...]) -> Tensor:
        at = torch.tensor(some, dtype=torch.int64)
        return x.clone().index_copy(0, at, x_adv[at].clamp(0, 1))

    if norm is L0:
        kept = min(
            itertools.combinations(range(len(x)), int(radius)),
            key=lambda some: float((moved(some) - x_adv).norm()),
        )
        return moved(kept)
    if norm is Linf:
        return torch.minimum(torch.maximum(x_adv, x - radius), x + radius).clamp(0, 1)

    def at(multiplier: float) -> Tensor:
        shrunk = delta.sign() * (delta.abs() - multiplier).clamp(min=0) if norm is L1 else delta / (1 + multiplier)
        return (x + shrunk).clamp(0, 1)

    def excess(multiplier: float) -> float:
        return float(norm.size((at(multiplier) - x)[None])) - radius

    return at(0) if excess(0) <= 0 else at(float(optimize.brentq(excess, 0, 1e4, xtol=1e-15)))  # pyright: ignore


@each
@given(seed=seeds, pixels=st.integers(1, 9), radius=st.floats(0.01, 3), scale=st.sampled_from([0.3, 3.0]))
@settings(max_examples=40, deadline=None)
def test_nearest_is_the_projection_onto_ball_and_box(
    norm: Norm, seed: int, pixels: int, radius: float, scale: float
) -> None:
    radius = min(round(radius), pixels) if norm is L0 else radius
    x = edges(seed, 3, pixels)
    x_adv = x + noise(seed + 1, 3, pixels, scale)
    for image, wanted, found in zip(x, x_adv, norm.nearest(x, x_adv, float(radius), (0.0, 1.0)), strict=True):
        torch.testing.assert_close(found, projected(norm, image, wanted, radius), rtol=0, atol=1e-7)


@each
@pytest.mark.parametrize("pixels", [1, 5, 300])
def test_nearest_leaves_what_is_inside_and_holds_in_single_precision(norm: Norm, pixels: int) -> None:
    x = edges(1, 40, pixels, torch.float32)
    radius = torch.linspace(0, 5, 40)
    x_adv = x + noise(2, 40, pixels, 1.0, torch.float32)
    near = norm.nearest(x, x_adv, radius, (0.0, 1.0))
    assert float(near.min()) >= 0
    assert float(near.max()) <= 1
    assert (norm.size((near - x).double()) <= radius.double() * (1 + 1e-5) + 1e-6).all()
    again = norm.nearest(x, near, radius + 1e-5, (0.0, 1.0))
    torch.testing.assert_close(again, near, rtol=0, atol=1e-6)
    wide = norm.nearest(x.double(), x_adv.double(), radius.double(), (0.0, 1.0))
    torch.testing.assert_close(near.double(), wide, rtol=0, atol=1e-5)


@each
@given(seed=seeds, pixels=st.integers(1, 9), radius=st.floats(0.01, 3))
@settings(max_examples=40, deadline=None)
def test_furthest_is_the_support_of_ball_and_box(norm: Norm, seed: int, pixels: int, radius: float) -> None:
    radius = min(round(radius), pixels) if norm is L0 else radius
    x, slope = edges(seed, 3, pixels), noise(seed + 1, 3, pixels)
    far = norm.furthest(x, slope, float(radius), (0.0, 1.0))
    assert float(far.min()) >= 0
    assert float(far.max()) <= 1
    assert (norm.size(far - x) <= radius * (1 + 1e-9)).all()
    for image, weight, found in zip(x, slope, far, strict=True):
        expected = float(largest_gain(norm, image, weight, radius))
        assert float(weight @ (found - image)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@each
def test_furthest_without_a_box_is_the_steepest_step(norm: Norm) -> None:
    x, slope = edges(0, 6, 8), noise(1, 6, 8)
    radius = torch.arange(6, dtype=torch.float64)
    if norm is L0:
        assert torch.equal(norm.size(norm.furthest(x, slope, radius, None) - x), radius)
        return
    step = radius[:, None] * norm.steepest(slope)
    torch.testing.assert_close(norm.furthest(x, slope, radius, None), x + step, rtol=0, atol=1e-12)


@each
def test_nothing_moves_along_a_slope_of_nothing(norm: Norm) -> None:
    x = edges(0, 4, 8, torch.float32)
    for box in ((0.0, 1.0), None):
        assert torch.equal(norm.furthest(x, torch.zeros_like(x), 2.0, box), x)
        assert torch.equal(norm.nearest(x, x, 2.0, box), x)


@each
def test_blocks_of_rows_change_nothing(norm: Norm) -> None:
    x, slope = edges(0, 300, 400, torch.float32), noise(1, 300, 400, 1.0, torch.float32)
    radius = torch.linspace(0, 9, 300)
    far, near = norm.furthest(x, slope, radius, (0.0, 1.0)), norm.nearest(x, x + slope, radius, (0.0, 1.0))
    some = torch.tensor([3, 170, 299])
    torch.testing.assert_close(norm.furthest(x[some], slope[some], radius[some], (0.0, 1.0)), far[some])
    torch.testing.assert_close(norm.nearest(x[some], (x + slope)[some], radius[some], (0.0, 1.0)), near[some])


def test_inward_drops_only_what_would_leave_the_box() -> None:
    x = torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]])
    direction = torch.tensor([[-1.0, 1.0, -1.0, -1.0, 1.0]])
    assert inward(direction, x, (0.0, 1.0)).tolist() == [[0, 1, -1, -1, 0]]
    assert inward(direction, x, None) is direction


@each
def test_copies_and_pickles_are_the_one_instance(norm: Norm) -> None:
    assert copy.deepcopy(norm) is norm
    assert pickle.loads(pickle.dumps(norm)) is norm

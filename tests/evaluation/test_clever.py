"""CLEVER against closed forms and finite samples."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import weibull_max
from torch import Tensor

from affine import affine, images, small_net
from probed import of
from steelman.evaluation import CLEVER
from steelman.evaluation.probes import clever
from steelman.norms import L0, L1, L2, Linf


@pytest.mark.parametrize("norm", [L2, Linf, L1])
def test_clever_of_an_affine_model_is_the_distance_to_its_boundary(norm: L2) -> None:
    model = affine(5, images=4)
    probe = CLEVER(norm, radius=50.0, batches=3, batch_size=4)
    assert torch.allclose(of(probe, model, model.x), model.nearest(norm), rtol=1e-9)
    assert of(replace(probe, radius=1e-4), model, model.x).tolist() == [1e-4] * 4
    one = int(model.nearest_rival(norm)[0])
    assert of(replace(probe, target=one), model, model.x)[0] == pytest.approx(float(model.nearest(norm)[0]))
    assert of(replace(probe, target=int(model.y[0])), model, model.x)[0] == 0
    least = [
        float((model(model.x)[i, y] - model(model.x)[i, k]) / (model.weight[y] - model.weight[k]).norm(p=dual(norm)))
        for i, (y, k) in enumerate(zip(model.y.tolist(), model(model.x).argmin(1).tolist(), strict=True))
    ]
    assert of(replace(probe, target="least-likely"), model, model.x).tolist() == pytest.approx(least)


def dual(norm: L2) -> float:
    return {L2: 2.0, Linf: 1.0, L1: math.inf}[norm]


def bowl(x: Tensor) -> Tensor:
    """Z_0 - Z_1 = 1 + w x + 1.5 |x|^2, whose gradient at x is w + 3 x."""
    flat = x.flatten(1)
    gap = 1 + flat @ torch.tensor([0.8, -0.3], dtype=x.dtype) + 1.5 * flat.square().sum(1)
    return torch.stack([gap, torch.zeros_like(gap)], 1) - 2


@pytest.mark.parametrize("pool", [None, 10])
@pytest.mark.parametrize(("norm", "steepest"), [(L2, math.hypot(0.8, 0.3) + 1.5), (Linf, 1.1 + 3), (L1, 0.8 + 1.5)])
def test_clever_finds_the_largest_gradient_in_the_ball(norm: L2, steepest: float, pool: int | None) -> None:
    """In a plane, where batches come near: at radius .5 the largest dual norm of w + 3 d has a closed form."""
    probe = CLEVER(norm, radius=0.5, batches=100, batch_size=100, pool=pool, box=None)
    score = of(probe, bowl, torch.zeros(1, 1, 1, 2, dtype=torch.float64)).item()
    assert score == pytest.approx(1 / steepest, rel=0.015 if pool is None else 0.04)


def test_clever_clips_points_to_the_box() -> None:
    """At the corner (0, 0), all gradients but those of the positive quadrant are out of reach."""
    probe = CLEVER(radius=0.5, batches=60, batch_size=100)
    score = of(probe, bowl, torch.zeros(1, 1, 1, 2, dtype=torch.float64)).item()
    assert score == pytest.approx(1 / math.hypot(0.8 + 1.5, 0.3), rel=0.015)


def test_clever_is_the_same_alone_and_in_other_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clever, "upper_end", lambda maxima: float(maxima.mean()))  # fits take their time
    model, x, seeds = small_net(classes=3), images(3), torch.tensor([5, 6, 7])
    y = torch.zeros(3, dtype=torch.int64)
    for probe in (
        CLEVER(batches=6, batch_size=5, at_once=30),
        CLEVER(Linf, 2.0, 6, 5, pool=2, target="random"),
    ):
        found = probe(model, x, y, x, seeds)
        alone = torch.cat([probe(model, x[i : i + 1], y[:1], x[i : i + 1], seeds[i : i + 1]) for i in range(3)])
        assert found.equal(alone)
        assert torch.allclose(found, replace(probe, at_once=7)(model, x, y, x, seeds), rtol=1e-6)
        assert bool((found != probe(model, x, y, x, seeds + 1)).all())
        assert bool((found > 0).all())


def test_clever_of_a_flat_model_is_the_radius() -> None:
    def flat(x: Tensor) -> Tensor:
        return 0 * x.flatten(1)[:, :2] + torch.tensor([3.0, 0.0])

    assert of(CLEVER(radius=2.0, batches=2, batch_size=3), flat, torch.rand(1, 1, 2, 2)).item() == 2


@pytest.mark.parametrize(("shape", "within"), [(1.5, 0.02), (3.0, 0.15), (6.0, 0.4)])
def test_the_upper_end_of_reverse_weibull_samples(shape: float, within: float) -> None:
    sample = 10 - np.random.default_rng(0).weibull(shape, 400)
    end = clever.upper_end(sample)
    assert end == pytest.approx(10, abs=within)
    assert end >= sample.max()


def test_the_upper_end_is_the_most_likely_one() -> None:
    sample = 10 - np.random.default_rng(0).weibull(3.0, 400)
    end = clever.upper_end(sample)
    best, *others = (
        float(weibull_max.logpdf(sample, *weibull_max.fit(sample, 3.0, floc=at)).sum())
        for at in (end, end - 0.08, end + 0.08)
    )
    assert best > max(others) + 0.05
    assert clever.upper_end(1e-8 * sample) == pytest.approx(1e-8 * end, rel=1e-3)


def test_the_upper_end_is_the_largest_where_nothing_fits() -> None:
    assert clever.upper_end(np.full(5, 3.0)) == 3
    assert clever.upper_end(np.array([2.0])) == 2
    assert clever.upper_end(np.array([0.0] * 50 + [1.0] * 50)) == 1
    few = 1 + 1e-5 * np.random.default_rng(0).random(4)  # hardly told apart: whatever fits is no less than they are
    assert few.max() <= clever.upper_end(few) < 1.001


def test_clever_refuses_invalid_settings() -> None:
    for settings, message in (
        ({"norm": L0}, "dual"),
        ({"radius": 0.0}, "radius"),
        ({"batches": 0}, "batches >= 1; got 0"),
        ({"pool": 0}, "pool >= 1; got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            CLEVER(**settings)  # pyright: ignore[reportArgumentType]
    model = affine(0, images=1)
    with pytest.raises(ValueError, match="target 10 is no class: the model has 0 to 9"):
        of(CLEVER(target=10, batches=1, batch_size=1), model, model.x)

"""FAB against the algorithm, one image at a time; its targets, restarts and radius."""

import math

import numpy as np
import pytest
import torch
from test_linearised import by_bisection, by_program

from affine import affine, images, small_net
from every_attack import size
from steelman.attacks import FAB
from steelman.attacks.minimal.fab import START
from steelman.norms import L0, L1, L2, Linf, Norm
from steelman.randomness import Draws

MODEL = small_net()
X = images(3)
Y = MODEL(X).argmax(1)


def jacobian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = torch.tensor(x)[None].requires_grad_()
    logits = MODEL(image)[0]
    rows = [torch.autograd.grad(logit, image, retain_graph=True)[0][0].numpy() for logit in logits]
    return logits.detach().numpy(), np.stack(rows)


def onto(x: np.ndarray, slope: np.ndarray, gap: float, norm: Norm) -> np.ndarray:
    """The step onto the plane: one number decides it, its own norm in Linf and a multiplier in L2."""
    way, flat = -slope.ravel() * np.sign(gap), x.ravel()

    def step(t: float) -> np.ndarray:
        return (t * (way if norm is L2 else np.sign(way))).clip(-flat, 1 - flat)

    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if step(middle) @ way >= abs(gap) else (middle, high)
    reference = by_bisection if norm is L2 else by_program
    p = 2.0 if norm is L2 else math.inf
    smallest = reference(flat, slope.ravel(), gap, p)
    assert smallest == math.inf or math.isclose(np.linalg.norm(step(high), p), smallest, rel_tol=1e-6)
    return step(high).reshape(x.shape)


def walk(x: np.ndarray, label: int, norm: Norm, steps: int) -> np.ndarray:
    """The nearest adversarial image of the walk, before the final search."""

    def length(delta: np.ndarray) -> float:
        return float(np.linalg.norm(delta.ravel(), 2 if norm is L2 else np.inf))

    here, best = x, None
    for _ in range(steps):
        logits, slopes = jacobian(here)
        options = []
        for k in range(10):
            if k != label:
                gap, slope = logits[k] - logits[label], slopes[k] - slopes[label]
                step = onto(here, slope, gap, norm)
                beyond = abs(gap / (slope * step).sum())  # above 1 where the box keeps it from the plane
                options.append((length(step) * beyond, gap, slope))
        _, gap, slope = min(options, key=lambda option: option[0])
        step = onto(here, slope, gap, norm)
        straight = onto(x, slope, gap + float((slope * (x - here)).sum()), norm)
        pull = min(length(step) / (length(step) + length(straight)), 0.1)
        here = ((1 - pull) * (here + 1.05 * step) + pull * (x + 1.05 * straight)).clip(0, 1)
        if int(jacobian(here)[0].argmax()) != label:
            best = here if best is None or length(here - x) < length(best - x) else best
            here = x + 0.9 * (here - x)
    assert best is not None
    return best


@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
def test_it_is_the_algorithm(norm: Norm) -> None:
    result = FAB(norm=norm, steps=5, slack=math.inf).run(MODEL, X, Y)
    assert bool(result.success.all())
    for row in range(len(X)):
        x = X[row].numpy()
        best = walk(x, int(Y[row]), norm, 5) - x
        moved = result.x_adv[row].numpy() - x
        share = float((moved * best).sum() / (best**2).sum())
        np.testing.assert_allclose(moved, share * best, rtol=0, atol=1e-9)  # the final search is on the line
        assert 0.8 < share <= 1
        assert int(jacobian(x + 0.995 * moved)[0].argmax()) == int(Y[row])  # and ends at the boundary
    assert result.gradients.tolist() == [5 * 9] * len(X)
    assert result.forwards.tolist() == [1 + 2 * 5 + 4] * len(X)


@pytest.mark.parametrize("norm", [Linf, L2, L1], ids=repr)
def test_it_solves_affine_models_at_the_box(norm: Norm) -> None:
    for seed in range(2):
        model = affine(seed, images=8, edge=True)
        for attack in (FAB(norm=norm, steps=15), FAB(norm=norm, steps=6, targets=9)):
            result = attack.run(model, model.x, model.y)
            assert bool(result.success.all())
            ratio = size(norm, result.x_adv, model.x) / model.nearest_in_box(norm)
            assert float(ratio.max()) <= 1.01
            assert float(ratio.min()) >= 1 - 1e-9


def test_each_target_is_a_run_and_the_best_is_kept() -> None:
    x = images(12)
    y = MODEL(x).argmax(1)
    result = FAB(norm=L2, steps=6, targets=9).run(MODEL, x, y)
    assert result.gradients.tolist() == [54] * 12
    assert result.forwards.tolist() == [1 + 108 + 4] * 12
    fewer = FAB(norm=L2, steps=6, targets=2).run(MODEL, x, y)
    assert bool((result.l2 <= fewer.l2 * 1.001).all())
    more = FAB(norm=L2, steps=6, targets=99).run(MODEL, x, y)
    assert torch.equal(more.x_adv, result.x_adv)


def test_restarts_only_help() -> None:
    x = images(20)
    y = MODEL(x).argmax(1)
    generators = [torch.arange(20) + 7] * 2
    once, often = (
        FAB(norm=L2, steps=3, restarts=restarts).run(MODEL, x, y, generator=generator)
        for restarts, generator in zip((1, 6), generators, strict=True)
    )
    assert bool((often.l2 <= once.l2 * 1.001).all())
    assert float(often.l2.mean()) < float(once.l2.mean())


@pytest.mark.parametrize(
    ("settings", "norm"),
    [({}, Linf), ({}, L2), ({}, L1), ({"targets": 9}, L2), ({"restarts": 2}, Linf), ({"restarts": 2}, L1)],
    ids=repr,
)
def test_a_radius_ends_the_search_of_images_within_it(settings: dict, norm: Norm) -> None:
    x = images(10)
    y = MODEL(x).argmax(1)
    attack = FAB(norm=norm, steps=8, **settings)
    whole = attack.run(MODEL, x, y, generator=torch.arange(10))
    norms = size(norm, whole.x_adv, x)
    radius = float(norms.median()) * 1.02
    for given in (radius, torch.linspace(0.5, 1.5, 10, dtype=torch.float64) * radius):
        early = FAB(norm=norm, steps=8, radius=given, **settings).run(MODEL, x, y, generator=torch.arange(10))
        within = size(norm, early.x_adv, x) <= given
        assert torch.equal(within, norms * 1.01 <= given) or bool((within >= (norms * 1.01 <= given)).all())
        assert bool(early.success.all())
        assert bool((early.gradients[within] < whole.gradients[within]).all())
        assert torch.equal(early.gradients[~within], whole.gradients[~within])
        if "restarts" not in settings:  # random starts are within the radius
            torch.testing.assert_close(early.x_adv[~within], whole.x_adv[~within])


WRONG = [
    {"steps": 0},
    {"restarts": 0},
    {"targets": 0},
    {"classes": 1},
    {"alpha_max": 1.1},
    {"alpha_max": math.nan},
    {"eta": 0.9},
    {"beta": 1.0},
    {"slack": 0.5},
    {"norm": L0},
]


@pytest.mark.parametrize("settings", WRONG, ids=repr)
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="FAB needs"):
        FAB(**settings)


@pytest.mark.parametrize("radius", [-1.0, math.nan, torch.tensor([0.1, 0.1, -1.0, 0.1])], ids=repr)
def test_wrong_radii_are_refused(radius: float | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="FAB needs radius"):
        FAB(radius=radius)(MODEL, X, Y)


def test_a_restart_begins_within_half_of_the_nearest_success() -> None:
    x = torch.full((3, 1, 4, 6), 0.5, dtype=torch.float64)
    nearest = torch.tensor([0.02, 0.3, torch.inf], dtype=torch.float64)
    for norm, radius in ((L2, None), (Linf, 0.1), (L1, 0.2)):
        enough = torch.full_like(nearest, 0.0 if radius is None else radius)
        start = FAB(norm=norm, radius=radius)._start(x, nearest, enough, Draws.start(torch.arange(3), 3, x.device))
        most = START[norm] if radius is None else radius
        length = norm.size(start - x)
        assert bool((length <= nearest.clamp(max=most) / 2).all())
        assert bool((length > 0).all())

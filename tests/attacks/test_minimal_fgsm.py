"""Minimal FGSM against the closed form along its own direction."""

import math
from typing import Any

import pytest
import torch

from affine import Affine, affine, images, small_net
from steelman.attacks import FGSM, MinimalFGSM
from steelman.losses import KL, CrossEntropy, Goal
from steelman.norms import L0, L1, L2, Linf, Norm

MODEL = small_net()
X = images(8)
Y = MODEL(X).argmax(1)


def along_the_gradient(model: Affine, norm: Norm) -> torch.Tensor:
    """The smallest eps on each image's fixed path, without a box: a crossing is linear for every rival."""
    x = model.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(CrossEntropy()(model(x), Goal(model.y)).sum(), x)
    unit = norm.steepest(gradient).flatten(1)
    smallest = []
    for row in range(len(model.x)):
        crossings = [math.inf]
        for weight, gap in (model.slopes(row, rival) for rival in model.rivals(row)):
            speed = float(weight @ unit[row])
            crossings.append(-gap / speed if speed > 0 else math.inf)
        smallest.append(min(crossings))
    return torch.tensor(smallest, dtype=torch.float64)


@pytest.mark.parametrize("norm", [Linf, L2, L1], ids=repr)
@pytest.mark.parametrize("seed", range(2))
def test_it_finds_the_smallest_step_along_its_direction(norm: Norm, seed: int) -> None:
    model = affine(seed)
    expected = along_the_gradient(model, norm)
    result = MinimalFGSM(norm=norm, box=None).run(model, model.x, model.y)
    assert bool(result.success[expected <= 1].all())
    some = result.success
    ratio = norm.size(result.x_adv - model.x)[some] / expected[some]
    assert int(some.sum()) >= 12
    assert float(ratio.max()) <= 1 + 1.1e-4
    assert float(ratio.min()) >= 1 - 1e-9


@pytest.mark.parametrize("norm", [Linf, L2, L1], ids=repr)
def test_of_two_classes_it_finds_the_optimum_within_the_box(norm: Norm) -> None:
    model = affine(1, classes=2, edge=True)
    result = MinimalFGSM(norm=norm, eps_max=24.0).run(model, model.x, model.y)
    assert bool(result.success.all())
    ratio = norm.size(result.x_adv - model.x) / model.nearest_in_box(norm)
    assert float(ratio.max()) <= 1 + 1.1e-4
    assert float(ratio.min()) >= 1 - 1e-6


def test_the_papers_grid_takes_the_first_of_its_steps() -> None:
    x_adv = MinimalFGSM(grid=0.05)(MODEL, X, Y)
    size = (x_adv - X).abs().flatten(1).amax(1)
    steps = [FGSM(eps=0.05 * step)(MODEL, X, Y) for step in range(1, 21)]
    for row in range(8):
        won = [bool(MODEL(x[row : row + 1]).argmax() != Y[row]) for x in steps]
        expected = steps[won.index(True)][row] if any(won) else X[row]
        torch.testing.assert_close(x_adv[row], expected, rtol=0, atol=1e-12)
    assert len(size.mul(20).round().unique()) > 1, "all leave at the same step, so nothing was tested"


def authors_loop(x: torch.Tensor, predict: Any, fast_gradient: Any, step: float, eps_max: float) -> torch.Tensor:
    """What the code of July 2017 does, in numpy's words: `curr` is relative to itself, and used as absolute."""
    y, x_adv, curr, eps = predict(x), x.clone(), torch.arange(len(x)), step
    while len(curr) and eps <= eps_max:
        x_adv[curr] = fast_gradient(x[curr], y[curr], eps)
        new = predict(x_adv[curr])
        curr = torch.nonzero(y[curr] == new)[:, 0]
        eps += step
    return x_adv


def test_legacy_indexing_is_the_authors_loop() -> None:
    x = images(60)
    wrong = (MODEL(x).argmax(1) + torch.arange(60).remainder(5).eq(0)) % 10  # a fifth are natural errors
    attack = MinimalFGSM(grid=0.05, eps_max=0.95, legacy_indexing=True, reference="prediction")
    x_adv = attack(MODEL, x, wrong)
    expected = authors_loop(
        x, lambda some: MODEL(some).argmax(1), lambda some, y, eps: FGSM(eps=eps)(MODEL, some, y), 0.05, 1.0
    )
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    right = MinimalFGSM(grid=0.05, eps_max=0.95, reference="prediction").run(MODEL, x, wrong)
    fooled = MODEL(x_adv).argmax(1) != MODEL(x).argmax(1)
    assert int(fooled.sum()) < int(right.success.sum()), "the fault left no image out, so nothing was tested"
    assert bool(((x_adv - right.x_adv).abs().flatten(1).amax(1) > 0.01)[fooled].any()), "it attacked none again"


def test_legacy_indexing_depends_on_the_whole_batch() -> None:
    attack = MinimalFGSM(grid=0.05, legacy_indexing=True)
    whole = attack(MODEL, X, Y)
    alone = torch.cat([attack(MODEL, X[row : row + 1], Y[row : row + 1]) for row in range(8)])
    assert not torch.equal(whole, alone)
    torch.testing.assert_close(alone, MinimalFGSM(grid=0.05)(MODEL, X, Y), rtol=0, atol=1e-12)


def test_it_costs_one_gradient_and_stops_at_the_first_success() -> None:
    result = MinimalFGSM().run(MODEL, X, Y)
    assert (result.gradients == 1).all()
    assert int(result.forwards.max()) <= 40
    wrong = MinimalFGSM().run(MODEL, X, (Y + 1) % 10)
    assert torch.equal(wrong.x_adv, X)
    assert (wrong.forwards == 1).all()


def test_where_nothing_succeeds_the_image_comes_back() -> None:
    result = MinimalFGSM(eps_max=1e-4).run(MODEL, X, Y)
    assert not bool(result.success.any())
    assert torch.equal(result.x_adv, X)


def test_what_it_cannot_do_is_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"norm": L0}, "got L0. For L0 use JSMA"),
        ({"eps_max": 0.0}, "needs eps_max > 0; got 0"),
        ({"eps_max": math.inf}, "needs eps_max finite and > 0; got inf"),
        ({"grid": 0.0}, "needs grid > 0; got 0"),
        ({"grid": 2.0}, r"needs grid <= eps_max; got 2\.0 and 1"),
        ({"legacy_indexing": True}, "legacy_indexing repeats a search on a grid, and needs one"),
        ({"loss": KL()}, "KL has no gradient at the clean image"),
    ]
    for settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            MinimalFGSM(**settings)

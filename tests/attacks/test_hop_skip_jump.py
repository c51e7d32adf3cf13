"""HopSkipJump against its formulas and what is special about it."""

import math

import pytest
import torch
from torch import Tensor

from affine import Affine, affine, images, small_net
from steelman.attacks import HopSkipJump
from steelman.attacks.core.oracle import Oracle
from steelman.attacks.decision.starting import Side
from steelman.losses import Goal
from steelman.norms import L1, L2, Linf, Norm
from steelman.randomness import Draws, combine

SEEDS = torch.arange(100, 112)


def half_spaces(pixels: int = 24) -> tuple[Affine, Side, Tensor]:
    """Two classes, and for each of 12 images a point on the boundary."""
    model = affine(0, images=12, classes=2)
    goal = Goal(model.y)
    slope = model.weight[1] - model.weight[0]
    gap = model.x.flatten(1) @ slope + model.bias[1] - model.bias[0]
    on = model.x.flatten(1) - (gap / (slope @ slope))[:, None] * slope
    return model, Side(Oracle(model, goal), goal, torch.arange(12), model.x.shape[1:]), on


@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
@pytest.mark.parametrize("box", [None, (0.4, 0.6)])
@pytest.mark.parametrize("offset", [0.0, 1e-3])
def test_the_normal_is_the_paper_s_formula(norm: Norm, box: tuple[float, float] | None, offset: float) -> None:
    _, side, at = half_spaces()
    at = at.clamp(0.4, 0.6) + offset
    probe = torch.linspace(1e-3, 0.2, 12, dtype=torch.float64)
    attack = HopSkipJump(norm=norm, box=box, batch=7)
    found = attack._normal(side, at, probe, 9, Draws(SEEDS))
    for row in range(12):
        signs, units = [], []
        for query in range(9):
            draws = Draws(combine(SEEDS[row : row + 1], query))
            unit = draws.normal((24,), torch.float64) if norm is L2 else 2 * draws.uniform((24,), torch.float64) - 1
            point = at[row] + probe[row] * unit / unit.norm()
            point = point if box is None else point.clamp(*box)
            signs.append(1.0 if bool(side[torch.tensor([row])](point)) else -1.0)
            units.append((point[0] - at[row]) / probe[row])
        mean = sum(signs) / 9
        weights = signs if abs(mean) == 1 else [sign - mean for sign in signs]
        expected = sum(weight * unit for weight, unit in zip(weights, units, strict=True))
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
def test_the_normal_of_a_half_space_is_its_weight(norm: Norm) -> None:
    model, side, at = half_spaces()
    normal = HopSkipJump(norm=norm)._normal(side, at, torch.full((12,), 0.01, dtype=torch.float64), 4000, Draws(SEEDS))
    towards = (model.weight[1] - model.weight[0]) * (1 - 2 * model.y[:, None])
    cosine = torch.nn.functional.cosine_similarity(normal, towards)
    assert float(cosine.min()) > 0.98  # expected: (1 + pi / 2 * 23 / 4000)^-1/2 = .995
    assert float(cosine.max()) < 1


@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
def test_a_jump_is_halved_until_it_is_wrong(norm: Norm) -> None:
    model, side, at = half_spaces()
    slope = (model.weight[1] - model.weight[0])[None] * (1 - 2 * model.y[:, None])
    inside = at + 1e-3 * slope / slope.norm(dim=1, keepdim=True)  # 1e-3 beyond the boundary
    back = -norm.steepest(slope)
    moved = HopSkipJump(norm=norm, box=None)._jump(side, inside, back, torch.ones(12, dtype=torch.float64))
    margin = 1e-3 * slope.norm(dim=1) / (slope.norm(dim=1) if norm is L2 else slope.abs().sum(1))
    expected = 2.0 ** (torch.log2(margin)).floor()  # the largest power of a half that stays beyond
    torch.testing.assert_close(norm.size(moved - inside), expected)


@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
def test_the_batch_of_decisions_is_bounded_and_changes_nothing(norm: Norm) -> None:
    net, x = small_net(), images(5)
    y = net(x).argmax(1)
    largest = 0

    def model(z: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, len(z))
        return net(z)

    found = []
    for batch, most in ((3, 5), (7, 5), (100, 100)):  # one image of each takes part in jumps, however small the batch
        largest = 0
        attack = HopSkipJump(norm=norm, steps=3, evaluations=40, starts=2, batch=batch)
        found.append(attack(model, x, y, generator=SEEDS[:5]))
        assert largest == most
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-9)


def test_cost_is_what_the_card_says() -> None:
    model = affine(2, images=12)
    runs = [
        HopSkipJump(steps=steps, evaluations=50, max_evaluations=80, starts=3).run(
            model, model.x, model.y, generator=SEEDS
        )
        for steps in (0, 4)
    ]
    normals = sum(int(min(50 * math.sqrt(t), 80)) for t in (1, 2, 3, 4))
    ways = 4 * math.ceil(math.log2(24**1.5))
    jumps = runs[1].forwards - runs[0].forwards - normals - ways
    assert bool((jumps >= 4).all() & (jumps <= 16).all())


@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
def test_more_steps_come_nearer(norm: Norm) -> None:
    model = affine(5, images=12)
    sizes = [
        norm.size(HopSkipJump(norm=norm, steps=steps)(model, model.x, model.y, generator=SEEDS) - model.x)
        / model.nearest(norm)
        for steps in (0, 3, 10)
    ]
    assert bool((sizes[1] <= sizes[0] + 1e-6).all() & (sizes[2] <= sizes[1] + 1e-6).all())
    assert float(sizes[0].median()) > 1.3
    assert float(sizes[2].median()) < 1.05


def test_without_a_start_the_clean_image_comes_back() -> None:
    x = images(4)
    y = torch.zeros(4, dtype=torch.int64)

    def stubborn(z: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(0 * z.flatten(1)[:, 0].long(), 3).to(z.dtype) * 5 - 1

    result = HopSkipJump(steps=3, tries=20).run(stubborn, x, y)
    assert torch.equal(result.x_adv, x)
    assert not bool(result.success.any())
    assert result.forwards.tolist() == [21] * 4


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"norm": L1}, "HopSkipJump needs norm=L2 or Linf; got L1"),
        ({"steps": -1}, "steps >= 0"),
        ({"evaluations": 0}, "needs evaluations >= 1; got 0"),
        ({"max_evaluations": 0}, "max_evaluations >= 1; got 0"),
        ({"batch": 0}, "batch >= 1; got 0"),
        ({"gamma": 0.0}, "gamma > 0; got 0.0"),
        ({"gamma": float("nan")}, "gamma finite and > 0; got nan"),
        ({"starts": 0}, "starts >= 1"),
        ({"tries": -1}, "tries >= 0"),
    ],
)
def test_settings_that_cannot_be(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HopSkipJump(**bad)


def test_a_step_that_leads_away_is_not_kept() -> None:
    model, x = small_net(), images(8)
    y = model(x).argmax(1)
    sizes = torch.stack(
        [
            HopSkipJump(steps=steps, evaluations=8, starts=2).run(model, x, y, generator=SEEDS[:8]).l2
            for steps in range(6)
        ]
    )
    assert bool((sizes[1:] <= sizes[:-1] * 1.001).all())  # a step of so few evaluations often leads away
    assert bool((sizes[-1] < sizes[0]).any())

"""The boundary attack against its formulas, one image at a time, and what is special about it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from affine import affine, images, small_net
from steelman.attacks import BoundaryAttack
from steelman.attacks.core.oracle import Oracle
from steelman.attacks.decision.starting import Starts, to_boundary
from steelman.losses import Goal
from steelman.norms import L2
from steelman.randomness import Draws

SEEDS = torch.arange(100, 112)


def reference(attack: BoundaryAttack, model, x: Tensor, label: int, start: Tensor, draws: Draws) -> Tensor:
    """The walk of one image, from the card, with plain numbers."""

    def wrong(image: Tensor) -> bool:
        return int(model(image.reshape(1, *x.shape)).argmax(1)) != label

    clean, at = x.flatten(), start
    angle, share = attack.spherical_step, attack.source_step
    for step in range(1, attack.steps + 1):
        distance = float((at - clean).norm())
        unit = (at - clean) / distance
        noise = draws.split(step).normal((len(clean),), torch.float64)[0]
        noise = noise - (noise @ unit) * unit
        noise = angle * distance * noise / noise.norm()
        turned = (clean + (at - clean + noise) / math.sqrt(1 + angle**2)).clamp(0, 1)
        length = float((turned - clean).norm())
        candidate = (clean + min(1, (1 - share) * distance / length) * (turned - clean)).clamp(0, 1)
        hit = wrong(candidate)
        if hit and float((candidate - clean).norm()) < distance:
            at = candidate
        share *= math.exp(0.2 * (hit - 0.2))
        if step % attack.check_every == 0:
            angle *= math.exp(0.5 * (wrong(turned) - 0.35))
            angle, share = min(angle, 1.0), min(share, 0.5)
            if share < attack.source_step_convergence:
                break
    return at


@pytest.mark.parametrize("check_every", [1, 4])
def test_against_a_walk_of_one_image(check_every: int) -> None:
    model, x = small_net(), images(4)
    y = model(x).argmax(1)
    attack = BoundaryAttack(steps=60, check_every=check_every, source_step_convergence=1e-3)
    goal, seeds = Goal(y), Draws(SEEDS[:4])
    with Oracle(model, goal) as oracle:
        side, clean, start = Starts(L2, attack.box, attack.starts, attack.tries).find(oracle, x, goal, seeds)
        start = to_boundary(side, clean, start, L2, 2.0**-10)
        walked = torch.stack(
            [reference(attack, model, x[row], int(y[row]), start[row], seeds[torch.tensor([row])]) for row in range(4)]
        )
        assert bool((L2.size(walked - clean) < 0.9 * L2.size(start - clean)).any())
        expected = to_boundary(side, clean, walked, L2, 2.0**-20)
    x_adv = attack(model, x, y, generator=SEEDS[:4])
    torch.testing.assert_close(x_adv.flatten(1), expected, rtol=0, atol=1e-9)


def test_a_turn_keeps_the_distance_and_has_the_angle() -> None:
    clean, at = images(12).flatten(1), images(12, seed=2).flatten(1)
    distance, tangent = L2.size(at - clean), torch.linspace(0.01, 1, 12, dtype=torch.float64)
    turned = BoundaryAttack(box=None)._turn(clean, at, distance, tangent, Draws(SEEDS))
    torch.testing.assert_close(L2.size(turned - clean), distance)
    cosine = ((turned - clean) * (at - clean)).sum(1) / distance**2
    torch.testing.assert_close(cosine, 1 / (1 + tangent**2).sqrt())


def test_converged_images_leave_and_the_others_are_none_the_wiser() -> None:
    model, x = small_net(), images(12)
    y = model(x).argmax(1)
    whole = BoundaryAttack(steps=150, source_step_convergence=0.0, starts=2)
    early = replace(whole, source_step_convergence=7e-3)
    all_along = whole.run(model, x, y, generator=SEEDS)
    left = early.run(model, x, y, generator=SEEDS)
    stayed = left.forwards == all_along.forwards
    assert 0 < int(stayed.sum()) < 12
    assert torch.equal(left.x_adv[stayed], all_along.x_adv[stayed])
    assert bool((left.forwards <= all_along.forwards).all())
    assert bool(left.success.all())


def test_more_steps_come_nearer() -> None:
    model = affine(5, images=12)
    sizes = [
        BoundaryAttack(steps=steps).run(model, model.x, model.y, generator=SEEDS).l2 / model.nearest(L2)
        for steps in (0, 100, 400)
    ]
    assert bool((sizes[1] <= sizes[0] + 1e-6).all() & (sizes[2] <= sizes[1] + 1e-6).all())
    assert float(sizes[0].median()) > 1.3
    assert float(sizes[2].median()) < 1.05


def test_without_a_start_the_clean_image_comes_back() -> None:
    model, x = small_net(), images(4)
    y = model(x).argmax(1)

    def stubborn(z: Tensor) -> Tensor:
        logits = model(z)
        return logits.scatter(1, torch.full((len(z), 1), 9), -1e3)  # never class 9

    attack = BoundaryAttack(steps=20, tries=20)
    result = attack.run(stubborn, x, y, target=torch.full((4,), 9), generator=SEEDS[:4])
    assert torch.equal(result.x_adv, x)
    assert not bool(result.success.any())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": -1}, "BoundaryAttack needs steps >= 0; got -1"),
        ({"check_every": 0}, "check_every >= 1; got 0"),
        ({"spherical_step": 0.0}, r"spherical_step in \(0, 1\]; got 0.0"),
        ({"source_step": 1.0}, r"source_step in \(0, 1\); got 1.0"),
        ({"source_step": float("nan")}, r"source_step finite and in \(0, 1\); got nan"),
        ({"source_step_convergence": -1.0}, "source_step_convergence >= 0; got -1.0"),
        ({"starts": 0}, "starts >= 1"),
        ({"tries": -1}, "tries >= 0"),
    ],
)
def test_settings_that_cannot_be(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoundaryAttack(**bad)

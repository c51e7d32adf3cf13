"""The cascade: which images its stages meet, and that nothing of it hangs on the batch."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from affine import affine, images, small_net
from every_attack import generator, size
from steelman import config
from steelman.attacks import APGD, CascadeAttack
from steelman.attacks.core import Attack
from steelman.losses import CrossEntropy, Goal, LogitDifference, Margin
from steelman.norms import L0, L1, L2, Linf, Norm
from steelman.randomness import Draws

NET, X = small_net(), images(24)
with torch.no_grad():
    Y = NET(X).argmax(1)
SHORT = CascadeAttack(eps=0.06, steps=4, shares=(0.6, 0.4, 0.2))
"""Its stages have 4 steps, or 2 after 2 of adaptive direction, or 8."""
FIRST = 9 + 4 + 4 + 3 * 4
"""Gradient passes of the look at x and of the stages that all images get."""
LATER = (4 + 2 * 4, 6 * 4 + 8 + 2 * 8, 3 * 8)
"""Of the others."""


def test_the_stages_are_those_of_its_card() -> None:
    found = [
        (below, type(each.loss), each.targets, each.first_target, each.restarts, each.adi, each.steps)
        for below, each in CascadeAttack(eps=0.3).stages
    ]
    every = float("inf")
    assert found == [
        (every, CrossEntropy, 0, 1, 1, 0, 50),
        (every, Margin, 0, 1, 1, 0, 50),
        (every, LogitDifference, 3, 1, 1, 0, 50),
        (0.25, Margin, 0, 1, 1, 7, 43),
        (0.25, LogitDifference, 2, 1, 1, 7, 43),
        (0.10, LogitDifference, 6, 4, 1, 0, 50),
        (0.10, Margin, 0, 1, 1, 7, 93),
        (0.10, LogitDifference, 2, 1, 1, 7, 93),
        (0.05, Margin, 0, 1, 3, 0, 100),
    ]
    assert all(each.stop_early and each.eps == 0.3 for _, each in CascadeAttack(eps=0.3).stages)
    assert all(each.order == "linearised" for _, each in CascadeAttack().stages if each.targets)
    assert {each.multi_eps for _, each in CascadeAttack(norm=L1).stages} == {True}


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 0.05), (L2, 0.3), (L1, 1.0)], ids=repr)
def test_it_succeeds_exactly_where_affine_models_allow_it(norm: Norm, eps: float) -> None:
    model = affine(2, images=4, edge=True)
    nearest = model.nearest_in_box(norm)
    radius = nearest * torch.tensor([0.99, 1.01]).repeat(2)
    result = CascadeAttack(eps=radius, norm=norm, steps=20).run(model, model.x, model.y, generator=generator())
    assert torch.equal(result.success, nearest <= radius)
    assert (size(norm, result.x_adv, model.x) <= radius).all()


def test_an_image_gets_its_answer_and_its_passes_in_any_batch() -> None:
    seeds = torch.arange(24)
    whole = SHORT.run(NET, X, Y, generator=seeds)
    assert 5 < int(whole.success.sum()) < 20
    assert len(set(whole.gradients[~whole.success].tolist())) > 2, "images meet different stages"
    parts = SHORT.run(NET, X, Y, generator=seeds, batch_size=7)
    order = torch.arange(23, -1, -1)
    turned = SHORT.run(NET, X[order], Y[order], generator=seeds[order])
    for other, back in ((parts, seeds), (turned, order)):
        torch.testing.assert_close(other.x_adv[back], whole.x_adv, rtol=0, atol=1e-9)
        assert torch.equal(other.gradients[back], whole.gradients)
    for row in range(0, 24, 5):
        part = slice(row, row + 1)
        alone = SHORT.run(NET, X[part], Y[part], generator=seeds[part])
        torch.testing.assert_close(alone.x_adv, whole.x_adv[part], rtol=0, atol=1e-9)
        assert torch.equal(alone.gradients, whole.gradients[part])


@cache
def shares() -> Tensor:
    """The shares after the stages that all images get, from all that the model is asked about."""
    attack, found = replace(SHORT, shares=(0.0, 0.0, 0.0)), []
    for row in range(len(X)):
        asked: list[Tensor] = []

        def model(z: Tensor, asked: list[Tensor] = asked) -> Tensor:
            asked.append(z.detach().clone())
            return NET(z)

        attack(model, X[row : row + 1], Y[row : row + 1], generator=torch.tensor([row]))
        every = torch.cat(asked)
        margins = Margin()(NET(every).detach(), Goal(Y[row].expand(len(every))))
        found.append(float(margins.max() / margins[0]))
    return torch.tensor(found, dtype=torch.float64)


def test_later_stages_meet_the_images_below_their_shares() -> None:
    """A share is the best margin over that at x: as recomputed from every image that the model saw."""
    share = shares()
    stands = share > 0
    assert 5 < int(stands.sum()) < 20
    middle = float(share[stands].median())
    three = replace(SHORT, shares=(middle * 1.001, 0.0, 0.0)).run(NET, X, Y, generator=torch.arange(24))
    few = stands & (share > middle * 1.001)
    assert few.any()
    assert (three.gradients[few] == FIRST).all()
    unbroken = stands & (share <= middle) & ~three.success
    assert unbroken.any()
    assert (three.gradients[unbroken] == FIRST + LATER[0]).all()
    assert (three.gradients[~stands] <= FIRST).all()
    every = replace(SHORT, shares=(1.0, 1.0, 1.0)).run(NET, X, Y, generator=torch.arange(24))
    last = ~every.success & (share < 1)
    assert last.any()
    assert (every.gradients[last] == FIRST + sum(LATER)).all()
    climbs = 5 + 3 + 9 + 3
    assert (every.forwards[last] == 2 + FIRST - 9 + sum(LATER) + climbs).all()


def test_what_comes_back_unbroken_has_the_highest_margin_that_was_found() -> None:
    share = shares()
    result = replace(SHORT, shares=(0.0, 0.0, 0.0)).run(NET, X, Y, generator=torch.arange(24))
    clean = Margin()(NET(X).detach(), Goal(Y))
    unbroken = ~result.success
    torch.testing.assert_close((result.margin / clean)[unbroken], share[unbroken])


def test_no_stage_loses_what_one_before_it_found() -> None:
    seeds = torch.arange(24)
    first = APGD(eps=0.06, steps=4, stop_early=True).run(NET, X, Y, generator=Draws(seeds).split(0).seeds)
    whole = SHORT.run(NET, X, Y, generator=seeds)
    longer = replace(SHORT, shares=(1.0, 1.0, 1.0)).run(NET, X, Y, generator=seeds)
    assert 0 < int(first.success.sum()) <= int(whole.success.sum()) <= int(longer.success.sum()) < 24
    assert not bool((first.success & ~whole.success).any())
    assert not bool((whole.success & ~longer.success).any())
    torch.testing.assert_close(whole.x_adv[first.success], first.x_adv[first.success], rtol=0, atol=1e-9)


def test_an_image_that_is_wrong_comes_back_as_it_is() -> None:
    y = Y.clone()
    y[3] = (y[3] + 1) % 10
    result = SHORT.run(NET, X, y, generator=generator())
    assert torch.equal(result.x_adv[3], X[3])
    assert (int(result.forwards[3]), int(result.gradients[3])) == (1, 0)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("norm", [Linf, L2], ids=repr)
def test_few_classes_have_fewer_targets(classes: int, norm: Norm) -> None:
    model = affine(5, images=4, classes=classes, edge=True)
    nearest = model.nearest_in_box(norm)
    assert bool(CascadeAttack(eps=nearest * 1.01, norm=norm, steps=12).run(model, model.x, model.y).success.all())
    attack = CascadeAttack(eps=nearest * 0.99, norm=norm, steps=12)
    result = attack.run(model, model.x, model.y)
    assert not bool(result.success.any())
    rivals = classes - 1  # the nearest three, two and two are as many; there is none of rank 4
    longest = rivals + 12 + 12 + rivals * 12 + 12 + rivals * 12 + 24 + rivals * 24 + 3 * 24
    assert (result.gradients == longest).all(), "so near, every stage meets every image"


def test_a_given_target_is_the_goal_of_every_stage() -> None:
    target = (Y + 1) % 10
    result = replace(SHORT, eps=0.3).run(NET, X, Y, target=target, generator=generator())
    assert torch.equal(result.success, result.prediction == target)
    assert 2 < int(result.success.sum()) < 24
    assert (result.gradients <= 5 * 4 + 2 * 8 + 3 * 8).all()


def test_it_goes_through_toml_and_cuts_its_radii() -> None:
    attack = CascadeAttack(eps=0.2, norm=L2, shares=(0.5, 0.2, 0.1))
    assert config.read(Attack, config.write(attack)) == attack
    eps, which = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([2, 0])
    assert all(torch.equal(each.eps, eps[which]) for _, each in CascadeAttack(eps=eps)[which].stages)


def test_wrong_settings_are_refused() -> None:
    for wrong, message in (
        ({"norm": L0}, "norm=Linf"),
        ({"steps": 0}, "steps >= 1"),
        ({"shares": (0.1, 0.2, 0.05)}, "no larger share than one before"),
        ({"shares": (0.1, -0.2, 0.05)}, "shares"),
    ):
        with pytest.raises(ValueError, match=message):
            CascadeAttack(**wrong)

"""The order of targets by linearised distance, their ranks, and the start towards one: against closed forms."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from affine import Affine, affine, images, small_net
from every_attack import generator
from steelman import config
from steelman.attacks import APGD
from steelman.attacks.bounded.targets import FirstLook, directions
from steelman.attacks.core import Attack, Oracle
from steelman.identity import digest
from steelman.losses import Goal, LogitDifference, Margin
from steelman.norms import L1, L2, Linf, Norm
from steelman.randomness import Draws

NORMS = pytest.mark.parametrize("norm", [Linf, L2, L1], ids=repr)


def by_distance(model: Affine, norm: Norm) -> Tensor:
    """The wrong classes by their distances, which are exact on an affine model without a box."""
    return model._sizes(norm).argsort(1)[:, :-1]


@NORMS
def test_the_linearised_order_is_that_of_the_true_distances_of_an_affine_model(norm: Norm) -> None:
    model = affine(7, images=12)
    with Oracle(model, Goal(model.y)) as oracle:
        look = FirstLook.at(oracle, model.x, oracle.goal, norm, "linearised")
    assert torch.equal(look.rivals, by_distance(model, norm))
    with Oracle(model, Goal(model.y)) as other:
        by_logits = FirstLook.at(other, model.x, other.goal, norm).rivals
    assert not torch.equal(look.rivals, by_logits)
    assert (oracle.forwards == 1).all()
    assert (oracle.gradients == 9).all()
    assert (other.gradients == 0).all()
    torch.testing.assert_close(look.margin, Margin()(model(model.x), Goal(model.y)))
    assert look.classes == 10


def test_of_many_classes_the_twenty_highest_are_ordered() -> None:
    model = affine(1, images=5, classes=40)
    with Oracle(model, Goal(model.y)) as oracle:
        look = FirstLook.at(oracle, model.x, oracle.goal, L2, "linearised")
    assert (oracle.gradients == 20).all()
    highest = model(model.x).scatter(1, model.y[:, None], -torch.inf).topk(20, dim=1).indices
    assert torch.equal(look.rivals.sort(1).values, highest.sort(1).values)
    wanted = by_distance(model, L2)
    for row in range(5):
        assert look.rivals[row].tolist() == [k for k in wanted[row].tolist() if k in highest[row].tolist()]


def test_a_boundary_without_slope_is_the_farthest_and_tiny_slopes_have_an_order() -> None:
    slopes = torch.tensor([0.0, 0.0, 1e-30, 3e-30])

    def model(x: Tensor) -> Tensor:
        return torch.tensor([0.0, -1.0, -1e-9, -1e-9]) + x.flatten(1).sum(1, keepdim=True) * slopes

    with Oracle(model, Goal(torch.tensor([0]))) as oracle:
        look = FirstLook.at(oracle, torch.full((1, 1, 2, 2), 0.5), oracle.goal, L2, "linearised")
    assert look.rivals.tolist() == [[3, 2, 1]]


@pytest.mark.parametrize("rank", [1, 3])
def test_the_target_is_the_one_of_its_rank(rank: int) -> None:
    model = affine(0)
    attack = APGD(eps=0.01, steps=5, loss=LogitDifference())
    target = by_distance(model, Linf)[:, rank - 1]
    expected = attack(model, model.x, model.y, target=target, generator=generator())
    ranked = replace(attack, targets=1, first_target=rank, order="linearised")
    torch.testing.assert_close(ranked(model, model.x, model.y, generator=generator()), expected, rtol=0, atol=1e-9)


def test_passes_are_counted() -> None:
    model = affine(3, images=4)
    some = APGD(eps=0.01, loss=LogitDifference(), targets=2, steps=20, order="linearised", adi=7)
    result = some.run(model, model.x, model.y)
    assert (result.gradients == 9 + 2 * 27).all()
    assert (result.forwards == 1 + 2 * 28).all()
    by_logits = replace(some, order="logits").run(model, model.x, model.y)
    assert (by_logits.gradients == 54).all()
    alone = APGD(eps=0.01, loss=Margin(), steps=20, adi=7).run(model, model.x, model.y)
    assert (alone.gradients == 27).all()
    assert (alone.forwards == 29).all()
    given = replace(some, first_target=2).run(model, model.x, model.y, target=(model.y + 1) % 10)
    assert (given.gradients == 27).all(), "a given target is the only one"


def test_a_direction_has_the_weights_of_a3() -> None:
    rivals, labels = torch.arange(2000) % 9, torch.full((2000,), 9)
    weights = directions(rivals, labels, 10, Draws(torch.arange(2000)), torch.float64)
    assert (weights.gather(1, rivals[:, None]) == 0.8).all()
    away = weights[:, 9]
    assert -0.5 <= float(away.min()) < -0.45
    assert 0.05 < float(away.max()) <= 0.1
    others = weights.scatter(1, rivals[:, None], torch.nan)[:, :9]
    others = others[~others.isnan()]
    assert -1 <= float(others.min()) < -0.95
    assert 0.95 < float(others.max()) <= 1
    assert abs(float(others.mean())) < 0.02
    again = directions(rivals[5:7], labels[5:7], 10, Draws(torch.arange(5, 7)), torch.float64)
    assert torch.equal(again, weights[5:7])


@pytest.mark.parametrize("targets", [0, 2])
def test_the_start_follows_the_direction_in_steps_of_the_radius(targets: int) -> None:
    net, x, eps = small_net(), images(3), 0.05
    y = net(x).argmax(1).detach()
    for row in range(3):
        one, label, asked = x[row : row + 1], y[row : row + 1], []

        def model(z: Tensor, asked: list[Tensor] = asked) -> Tensor:
            asked.append(z.detach().clone())
            return net(z)

        attack = APGD(eps=eps, steps=2, loss=Margin(), adi=3, targets=targets)
        attack(model, one, label, generator=torch.tensor([row]))
        logits = net(one).detach().scatter(1, label[:, None], -torch.inf)
        rival = logits.argmax(1)
        seeds = Draws(torch.tensor([row])).split(0).split(0)
        way = directions(rival, label, 10, seeds.split(1), one.dtype)
        here = asked[1]  # after the clean image
        assert not torch.equal(here, one)
        for step in range(3):
            z = here.clone().requires_grad_()
            (slope,) = torch.autograd.grad((net(z) * way).sum(), z)
            here = (here + eps * slope.sign()).clamp(one - eps, one + eps).clamp(0, 1)
            torch.testing.assert_close(asked[2 + step], here, rtol=0, atol=1e-9)


def test_a_success_on_the_way_counts_and_ends_the_search() -> None:
    model, x = small_net(), images(40)
    y = model(x).argmax(1).detach()
    early = APGD(eps=0.12, steps=1, loss=Margin(), adi=7, stop_early=True).run(model, x, y, generator=generator())
    on_the_way = early.success & (early.gradients < 8)
    assert int(on_the_way.sum()) > 3
    whole = APGD(eps=0.12, steps=1, loss=Margin(), adi=7).run(model, x, y, generator=generator())
    assert torch.equal(whole.success, early.success)
    assert (whole.gradients == 8).all()


@pytest.mark.parametrize("more", [{"restarts": 3, "adi": 4}, {"targets": 4, "order": "linearised", "adi": 4}])
def test_an_image_alone_gets_the_answer_that_it_gets_among_others(more: dict[str, Any]) -> None:
    model, x = small_net(), images(30)
    y = model(x).argmax(1).detach()
    attack = APGD(eps=0.1, steps=4, loss=LogitDifference(), **more, stop_early=True)
    together = attack.run(model, x, y, generator=torch.arange(30))
    assert 0 < int(together.success.sum()) < 30
    for row in range(0, 30, 4):
        part = slice(row, row + 1)
        alone = attack.run(model, x[part], y[part], generator=torch.arange(30)[part])
        torch.testing.assert_close(alone.x_adv, together.x_adv[part], rtol=0, atol=1e-9)


def test_wrong_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="20 wrong classes are ordered by distance"):
        APGD(targets=6, first_target=16, order="linearised")
    assert APGD(targets=5, first_target=16, order="linearised").first_target == 16
    model = affine(0, images=4, classes=3)
    with pytest.raises(ValueError, match="with 3 classes there are 2 wrong ones"):
        APGD(targets=1, first_target=3)(model, model.x, model.y)


def test_settings_that_came_later_leave_identities_as_they_were() -> None:
    """Tables and runs of before are found again; with other values it is another attack."""
    assert digest(APGD()) == BEFORE
    plain, later = APGD(), APGD(order="linearised", targets=3, first_target=2, adi=7)
    assert {"order", "first_target", "adi"}.isdisjoint(config.write(plain))
    assert "first_target" not in str(replace(plain, loss=Margin()))
    assert config.read(Attack, config.write(later)) == later
    assert digest(later) != digest(replace(later, adi=6)) != digest(replace(later, first_target=1))


BEFORE = "ae564c052e2dfd3c"
"""As computed before these settings were added."""

"""APGD against a plain loop over one image, and its options."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from affine import affine, images, small_net
from every_attack import generator, size
from steelman.attacks import APGD
from steelman.losses import DLR, KL, CrossEntropy, Goal, LogitDifference, Loss, Margin, top_rivals
from steelman.norms import L0, L1, L2, Linf, Norm


class Recording:
    """A model that keeps what it is asked about."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model, self.asked = model, []

    def __call__(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return self.model(x)


def value_and_gradient(loss: Loss, model: Any, x: Tensor, goal: Goal) -> tuple[float, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(model(x), goal).sum()
    (gradient,) = torch.autograd.grad(value, x)
    return value.item(), gradient


def steepest(norm: Norm, gradient: Tensor) -> Tensor:
    return gradient.sign() if norm is Linf else gradient / gradient.norm()


def project(norm: Norm, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Linf with the box [0, 1]; L2 without a box."""
    if norm is Linf:
        return y.clamp(x - eps, x + eps).clamp(0, 1)
    return x + (y - x) * min(1.0, eps / float((y - x).norm()))


def checkpoints(steps: int) -> list[int]:
    """The paper's formula, in fractions of a hundredth."""
    p, w = [0.0, 0.22], []
    while p[-1] < 1:
        w.append(math.ceil(round(p[-1] * steps, 9)))
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    return w


def naive(norm: Norm, model: Any, x: Tensor, start: Tensor, goal: Goal, eps: float, steps: int) -> list[Tensor]:
    """Algorithm 1 as printed, for one image: all iterates. The last step goes to the corner for the best gradient."""
    iterate, loss, h = [start], [], 2 * eps
    marks, previous = checkpoints(steps), 0
    f_at_previous, halved_at_previous = -math.inf, False
    for k in range(steps):
        f, gradient = value_and_gradient(CrossEntropy(), model, iterate[k], goal)
        loss.append(f)
        if f == max(loss) and loss.count(f) == 1:
            best, best_gradient = iterate[k], gradient
        if k in marks:
            rises = sum(loss[i + 1] > loss[i] for i in range(previous, k))
            unchanged = not halved_at_previous and f_at_previous == max(loss)
            halved_at_previous = rises < 0.75 * (k - previous) or unchanged
            f_at_previous, previous = max(loss), k
            if halved_at_previous:
                h /= 2
                iterate[k], gradient, loss[k] = best, best_gradient, max(loss)
        if k == steps - 1:
            far = x + 1e6 * steepest(norm, best_gradient)
            return [*iterate, project(norm, x, far, eps)]
        z = project(norm, x, iterate[k] + h * steepest(norm, gradient), eps)
        if k > 0:
            z = project(norm, x, iterate[k] + 0.75 * (z - iterate[k]) + 0.25 * (iterate[k] - iterate[k - 1]), eps)
        iterate.append(z)
    raise AssertionError


@pytest.mark.parametrize(("norm", "box"), [(Linf, (0.0, 1.0)), (L2, None)])
@pytest.mark.parametrize("steps", [100, 37])
def test_the_iterates_are_those_of_algorithm_1(norm: Norm, box: tuple[float, float] | None, steps: int) -> None:
    net, x, eps = small_net(), images(6), 0.08 if norm is Linf else 0.4
    y = net(x).argmax(1).detach()
    for row in (2,) if steps == 100 else (0, 4):
        model = Recording(net)
        one, goal = x[row : row + 1], Goal(y[row : row + 1])
        APGD(eps=eps, norm=norm, steps=steps, box=box)(model, one, goal.labels, generator=torch.tensor([row]))
        asked = model.asked[-steps - 1 :]
        expected = naive(norm, net, one, asked[0], goal, eps, steps)
        # An image that a checkpoint sets back is asked about where it was; all others are the iterates themselves.
        marks = checkpoints(steps)
        for k, (mine, theirs) in enumerate(zip(asked, expected, strict=True)):
            if k not in marks:
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_checkpoints_are_the_papers() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def naive_l1(model: Any, x: Tensor, start: Tensor, goal: Goal, eps: float, steps: int) -> list[Tensor]:
    """Mind the box, for one image; projections by `L1.nearest`, which has tests of its own."""
    pixels = x.numel()
    iterate, best, highest, h = [start], start, -math.inf, eps
    count, support, every = math.ceil(0.2 * pixels), pixels, max(steps // 25, 1)
    for k in range(steps):
        f, gradient = value_and_gradient(CrossEntropy(), model, iterate[k], goal)
        if f > highest:
            best, best_gradient, highest = iterate[k], gradient, f
        if k > 0 and k % every == 0:
            now = int((best != x).sum())
            if now < 0.95 * support:
                h, iterate[k], gradient = eps, best, best_gradient
            else:
                h = max(h / 1.5, eps / 10)
            count, support = max(math.ceil(now / 1.5), 1), now
        if k == steps - 1:
            return [*iterate, L1.furthest(x, best_gradient, eps, (0.0, 1.0))]
        flat = gradient.flatten().tolist()
        for i, v in enumerate(iterate[k].flatten().tolist()):
            if (v <= 0 and flat[i] < 0) or (v >= 1 and flat[i] > 0):
                flat[i] = 0.0
        order = sorted(range(pixels), key=lambda i: -abs(flat[i]))[:count]
        moving = [i for i in order if flat[i] != 0]
        step = torch.zeros(pixels, dtype=x.dtype)
        for i in moving:
            step[i] = math.copysign(h / len(moving), flat[i])
        iterate.append(L1.nearest(x, iterate[k] + step.reshape(x.shape), eps, (0.0, 1.0)))
    raise AssertionError


@pytest.mark.parametrize("eps", [1.5, 8.0])
def test_the_iterates_in_l1_are_those_of_mind_the_box(eps: float) -> None:
    """In the large ball most pixels change, so that a number of them falls by less than 5 %, too."""
    net, x, steps = small_net(), images(6), 60
    y = net(x).argmax(1).detach()
    for row in range(0, 6, 2):
        model = Recording(net)
        one, goal = x[row : row + 1], Goal(y[row : row + 1])
        APGD(eps=eps, norm=L1, steps=steps)(model, one, goal.labels, generator=torch.tensor([row]))
        asked = model.asked[-steps - 1 :]
        expected = naive_l1(net, one, asked[0], goal, eps, steps)
        for k, (mine, theirs) in enumerate(zip(asked, expected, strict=True)):
            if k == 0 or k % (steps // 25):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
        assert int((asked[-1] != one).sum()) < 24 or eps > 2


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 0.05), (L2, 0.3), (L1, 1.0)], ids=repr)
def test_targets_succeed_exactly_where_the_worst_margin_is_positive(norm: Norm, eps: float) -> None:
    """On affine models the targeted DLR has the sign of the target's margin, which climbs to the closed form."""
    model = affine(3, images=4, edge=True)
    nearest = model.nearest_in_box(norm)
    for share, wanted in ((1.001, True), (0.999, False)):
        attack = APGD(eps=share * nearest, norm=norm, steps=30, loss=DLR(), targets=9, stop_early=True)
        result = attack.run(model, model.x, model.y, generator=generator())
        assert bool((result.success == wanted).all())
    some = APGD(eps=eps, norm=norm, loss=LogitDifference(), targets=2, steps=20).run(model, model.x, model.y)
    assert (some.gradients == 40).all()
    assert (some.forwards == 43).all()


@pytest.mark.parametrize("more", [{}, {"restarts": 2}, {"loss": DLR(), "targets": 3}, {"norm": L1, "multi_eps": True}])
def test_stop_early_changes_no_success_and_saves_passes(more: dict[str, Any]) -> None:
    model, x = small_net(), images(40)
    y = model(x).argmax(1).detach()
    eps = 1.0 if "norm" in more else 0.08
    whole = APGD(eps=eps, steps=20, **more).run(model, x, y, generator=generator())
    early = APGD(eps=eps, steps=20, **more, stop_early=True).run(model, x, y, generator=generator())
    assert torch.equal(whole.success, early.success)
    assert 0 < int(early.success.sum()) < 40
    assert (early.gradients <= whole.gradients).all()
    assert early.gradients[early.success].double().mean() < 0.8 * whole.gradients.double().mean()
    assert torch.equal(early.x_adv[~early.success], whole.x_adv[~early.success])


def test_of_failed_targets_the_highest_margin_comes_back() -> None:
    """Each target's own loss is on another scale, so that losses of different targets are not compared."""
    net, x = small_net(), images(12)
    y = net(x).argmax(1).detach()
    for row in range(0, 12, 2):
        model = Recording(net)
        one, label = x[row : row + 1], y[row : row + 1]
        x_adv = APGD(eps=0.01, steps=8, loss=DLR(), targets=4)(model, one, label, generator=torch.tensor([row]))
        asked = torch.cat(model.asked[1:])  # the first is the clean image, for the targets
        margins = Margin()(net(asked).detach(), Goal(label.expand(len(asked))))
        assert float(margins.max()) < 0
        torch.testing.assert_close(Margin()(net(x_adv).detach(), Goal(label))[0], margins.max())


def test_of_the_iterates_a_success_comes_back_and_else_the_highest_loss() -> None:
    net, x = small_net(), images(40)
    y = net(x).argmax(1).detach()
    for row in range(0, 40, 4):
        model = Recording(net)
        one, label = x[row : row + 1], y[row : row + 1]
        x_adv = APGD(eps=0.08, steps=12)(model, one, label, generator=torch.tensor([row]))
        logits = net(torch.cat(model.asked[-13:])).detach()
        loss = CrossEntropy()(logits, Goal(label.expand(13)))
        success = logits.argmax(1) != label
        wanted = loss[success].max() if bool(success.any()) else loss.max()
        torch.testing.assert_close(CrossEntropy()(net(x_adv).detach(), Goal(label))[0], wanted)


def test_restarts_and_targets_raise_the_loss() -> None:
    model, x = small_net(), images(40)
    y = model(x).argmax(1).detach()

    def margin(**more: Any) -> Tensor:
        attack = APGD(eps=0.08, steps=10, **more)
        return Margin()(model(attack(model, x, y, generator=generator())).detach(), Goal(y))

    once, thrice = margin(loss=Margin()), margin(loss=Margin(), restarts=3)
    assert (thrice >= once).all()
    assert (thrice > once).any()
    assert (margin(loss=LogitDifference(), targets=9) >= margin(loss=LogitDifference(), targets=1)).all()


def test_more_targets_than_classes_are_as_many_as_there_are() -> None:
    model = affine(0, classes=3)
    result = APGD(eps=0.1, loss=DLR(or_margin=True), targets=9, steps=5).run(model, model.x, model.y)
    assert (result.gradients == 10).all()
    assert (result.forwards == 13).all()


def test_targets_are_the_highest_rivals() -> None:
    model = affine(0)
    highest = top_rivals(model(model.x), model.y, 1)[:, 0]
    attack = APGD(eps=0.01, steps=5, loss=LogitDifference())
    expected = attack(model, model.x, model.y, target=highest, generator=generator())
    found = replace(attack, targets=1)(model, model.x, model.y, generator=generator())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_given_target_is_the_only_one() -> None:
    model = affine(0)
    target = (model.y + 1) % 10
    go = {"target": target, "generator": generator()}
    several = APGD(eps=0.3, loss=DLR(), targets=9, steps=20).run(model, model.x, model.y, **go)
    assert (several.gradients == 20).all()
    assert torch.equal(several.success, several.prediction == target)


def test_multi_eps_ends_in_the_ball_after_as_many_steps() -> None:
    model, x = small_net(), images(12)
    y = model(x).argmax(1).detach()
    result = APGD(eps=1.5, norm=L1, steps=25, multi_eps=True).run(model, x, y, generator=generator())
    assert (result.gradients == 25).all()
    assert (size(L1, result.x_adv, x) <= 1.5).all()


def test_wrong_settings_are_refused() -> None:
    for wrong, message in (
        ({"norm": L0}, "PGD"),
        ({"steps": 0}, "steps >= 1"),
        ({"restarts": 0}, "restarts >= 1"),
        ({"targets": -1}, "targets >= 0"),
        ({"rho": 0.0}, "rho"),
        ({"loss": KL()}, "compares with clean logits"),
    ):
        with pytest.raises(ValueError, match=message):
            APGD(**wrong)


@pytest.mark.parametrize("more", [{"restarts": 4}, {"loss": DLR(), "targets": 9}, {"norm": L1, "restarts": 3}])
def test_turns_side_by_side_give_the_answer_of_turns_in_sequence(more: dict[str, Any]) -> None:
    """Alone, an image takes its turns in sequence; the few that remain of many take them side by side."""
    model, x = small_net(), images(40)
    y = model(x).argmax(1).detach()
    attack = APGD(eps=1.5 if "norm" in more else 0.12, steps=3, **more, stop_early=True)
    together = attack.run(model, x, y, generator=torch.arange(40))
    stands = torch.where(~together.success)[0]
    assert 0 < len(stands) < 20
    assert int((together.success & (together.gradients > 3)).sum()) > 0  # won in a later turn
    for row in [*stands[:4].tolist(), *torch.where(together.success & (together.gradients > 3))[0][:4].tolist()]:
        part = slice(row, row + 1)
        alone = attack.run(model, x[part], y[part], generator=torch.arange(40)[part])
        torch.testing.assert_close(alone.x_adv, together.x_adv[part], rtol=0, atol=1e-9)

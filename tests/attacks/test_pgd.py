"""What PGD does in detail, against plain loops."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from affine import affine, images, small_net
from steelman.attacks import PGD, Attack
from steelman.losses import KL, CrossEntropy, Goal, LogitDifference, Loss, Margin, margin
from steelman.norms import L0, L1, L2, Linf, Norm
from steelman.randomness import Draws

SEEDS = torch.arange(7, 15)
MODEL = small_net()
X = images(8)
Y = MODEL(X).argmax(1)


def gradient(x: Tensor, y: Tensor, loss: Loss, target: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    logits = MODEL(x)
    value = loss(logits, Goal(y, target))
    (slope,) = torch.autograd.grad(value.sum(), x)
    return logits.detach().argmax(1), value.detach(), slope


def climb(x: Tensor, slope: Tensor, clean: Tensor, norm: Norm, eps: float, step: float) -> Tensor:
    """One step, written out: ball and box together, for L2 by bisection on the multiplier."""
    if norm is Linf:
        return (clean + (x + step * slope.sign() - clean).clamp(-eps, eps)).clamp(0, 1)
    free = slope * ~(((x <= 0) & (slope < 0)) | ((x >= 1) & (slope > 0)))
    length = free.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, 1, 1, 1)  # 0 past the hinge
    moved = x + step * slope / length - clean
    low, high = torch.zeros_like(length), torch.ones_like(length)
    for _ in range(80):
        middle = (low + high) / 2
        inside = ((clean + middle * moved).clamp(0, 1) - clean).flatten(1).norm(dim=1) <= eps
        low = torch.where(inside.reshape(low.shape), middle, low)
        high = torch.where(inside.reshape(low.shape), high, middle)
    return (clean + high * moved).clamp(0, 1)


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 0.1), (L2, 0.6)], ids=repr)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", [CrossEntropy(), Margin(2.0)], ids=repr)
def test_it_is_the_plain_loop(norm: Norm, eps: float, targeted: bool, loss: Loss) -> None:
    target = (Y + 1) % 10 if targeted else None
    x, steps = X, 6
    for _ in range(steps):
        x = climb(x, gradient(x, Y, loss, target)[2], X, norm, eps, 2.5 * eps / steps)
    attack = PGD(eps=eps, steps=steps, norm=norm, loss=loss, random_start=False)
    torch.testing.assert_close(attack(MODEL, X, Y, target=target), x, rtol=0, atol=1e-9)


def test_a_targeted_attack_approaches_its_target() -> None:
    target = (Y + 3) % 10
    before = CrossEntropy()(MODEL(X), Goal(Y, target))
    after = CrossEntropy()(MODEL(PGD(eps=0.3)(MODEL, X, Y, target=target)), Goal(Y, target))
    assert (after > before).all()


@pytest.mark.parametrize("norm", [Linf, L2, L1, L0], ids=repr)
def test_it_starts_at_a_sample_of_the_ball(norm: Norm) -> None:
    eps = 3.0 if norm is L0 else 0.7
    start = PGD(eps=eps, steps=0, norm=norm)(MODEL, X, Y, generator=SEEDS)
    sample = norm.sample(X, eps, Draws(SEEDS).split(0))
    torch.testing.assert_close(start, (X + sample).clamp(0, 1), rtol=0, atol=1e-6)
    assert not torch.equal(start, X)
    assert torch.equal(PGD(eps=eps, steps=0, norm=norm, random_start=False)(MODEL, X, Y), X)


@pytest.mark.parametrize("norm", [Linf, L2, L1], ids=repr)
def test_a_normal_start_is_small_and_within_ball_and_box(norm: Norm) -> None:
    attack = PGD(eps=1.0 if norm is Linf else 50.0, steps=0, norm=norm, normal_start=0.01)
    noise = attack(MODEL, X, Y, generator=SEEDS) - X
    drawn = 0.01 * Draws(SEEDS).split(0).normal(X.shape[1:], X.dtype)
    torch.testing.assert_close(noise, (X + drawn).clamp(0, 1) - X, rtol=0, atol=1e-9)
    near = replace(attack, eps=0.005)(MODEL, X, Y, generator=SEEDS) - X
    assert (norm.size(near) <= 0.005).all()
    assert (norm.size(near) > 0.0049).all()


def test_a_normal_start_needs_a_random_start() -> None:
    with pytest.raises(ValueError, match=r"normal_start > 0; got 0\.0"):
        PGD(normal_start=0.0)
    with pytest.raises(ValueError, match="standard deviation of a random start, so it needs random_start=True"):
        PGD(normal_start=0.1, random_start=False)


def test_step_sizes_per_image() -> None:
    sizes = torch.linspace(0.0, 0.02, 8, dtype=torch.float64)
    together = PGD(eps=0.1, steps=3, step_size=sizes)(MODEL, X, Y, generator=SEEDS)
    for row in range(8):
        one = slice(row, row + 1)
        alone = PGD(eps=0.1, steps=3, step_size=float(sizes[row]))(MODEL, X[one], Y[one], generator=SEEDS[one])
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"PGD needs step_size >= 0; got -0\.1"):
        PGD(step_size=-0.1)


def iterates(attack: PGD) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Every iterate of a run, the last included, with its predictions and losses."""
    seen = []
    for steps in range(attack.steps + 1):
        step = 2.5 * attack.eps / attack.steps
        x = PGD(eps=attack.eps, steps=steps, step_size=step, loss=attack.loss)(MODEL, X, Y, generator=SEEDS)
        seen.append((x, *gradient(x, Y, attack.loss)[:2]))
    return seen


def test_keep_best_returns_the_best_iterate_successes_first() -> None:
    attack = PGD(eps=0.2, steps=5, keep_best=True)
    seen = iterates(attack)
    won = torch.stack([prediction != Y for _, prediction, _ in seen])
    losses = torch.stack([loss for *_, loss in seen]).where(won | ~won.any(0), -torch.inf)
    assert bool((losses.argmax(0) < 5).any()), "the last iterate is always the best, so nothing was tested"
    expected = torch.stack([seen[int(best)][0][row] for row, best in enumerate(losses.argmax(0))])
    torch.testing.assert_close(attack(MODEL, X, Y, generator=SEEDS), expected, rtol=0, atol=1e-9)


def test_early_leave_returns_the_first_success() -> None:
    attack = PGD(eps=0.2, steps=5, stop_early=True)
    seen = iterates(attack)
    won = torch.stack([prediction != Y for _, prediction, _ in seen])
    first = torch.where(won.any(0), won.int().argmax(0), 5)
    assert len(first.unique()) > 1, "all images leave at once, so nothing was tested"
    expected = torch.stack([seen[int(step)][0][row] for row, step in enumerate(first)])
    result = attack.run(MODEL, X, Y, generator=SEEDS)
    torch.testing.assert_close(result.x_adv, expected, rtol=0, atol=1e-9)
    # An image that reaches the goal at iterate k has cost k + 1 passes.
    assert torch.equal(result.gradients, (first + 1).clamp(max=5))


@pytest.mark.parametrize("stop_early", [False, True])
def test_restarts_keep_a_success_or_else_the_higher_loss(stop_early: bool) -> None:
    def once(turn: int) -> Tensor:
        attack = PGD(eps=0.06, steps=3, stop_early=stop_early, restarts=turn + 1)
        return attack(MODEL, X, Y, generator=SEEDS)

    def rank(x: Tensor) -> list[tuple[bool, float]]:
        prediction, loss, _ = gradient(x, Y, CrossEntropy())
        return list(zip((prediction != Y).tolist(), loss.tolist(), strict=True))

    ranks = [rank(once(turn)) for turn in range(5)]
    for before, after in pairwise(ranks):
        for old, new in zip(before, after, strict=True):
            # With stop_early a success stays what it is; otherwise the better of the two stays.
            assert new == pytest.approx(old) if stop_early and old[0] else new >= (old[0], old[1] - 1e-9)
    assert ranks[-1] != ranks[0], "no restart changed anything, so nothing was tested"


def test_restarts_are_the_best_of_independent_runs() -> None:
    attack = PGD(eps=0.06, steps=3, restarts=3)
    expected, ranks = X.clone(), [(False, -float("inf"))] * 8
    for turn in range(3):
        x = (X + Linf.sample(X, 0.06, Draws(SEEDS).split(turn))).clamp(0, 1)
        for _ in range(3):
            x = climb(x, gradient(x, Y, CrossEntropy())[2], X, Linf, 0.06, 0.05)
        prediction, loss, _ = gradient(x, Y, CrossEntropy())
        for row in range(8):
            rank = (bool(prediction[row] != Y[row]), float(loss[row]))
            if rank > ranks[row]:
                expected[row], ranks[row] = x[row], rank
    torch.testing.assert_close(attack(MODEL, X, Y, generator=SEEDS), expected, rtol=0, atol=1e-9)


def test_early_leave_costs_no_success() -> None:
    model = affine(1)
    plain = PGD(eps=0.02, steps=20).run(model, model.x, model.y, generator=torch.arange(24))
    early = PGD(eps=0.02, steps=20, stop_early=True).run(model, model.x, model.y, generator=torch.arange(24))
    assert 0 < int(plain.success.sum()) < 24
    assert bool((early.success | ~plain.success).all())
    assert int(early.gradients.sum()) < int(plain.gradients.sum())


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("targets", [0, 3])
def test_copies_change_no_answer(stop_early: bool, targets: int) -> None:
    attack = PGD(eps=0.05, steps=4, restarts=4, targets=targets, loss=LogitDifference(), stop_early=stop_early)
    one = attack.run(MODEL, X, Y, generator=SEEDS)
    for copies in (2, 3, 50):
        many = replace(attack, parallel_restarts=copies).run(MODEL, X, Y, generator=SEEDS)
        torch.testing.assert_close(many.x_adv, one.x_adv, rtol=0, atol=1e-12)
    assert 0 < int(one.success.sum()) < 8, "all or none succeed, so too little was tested"


def test_copies_share_passes() -> None:
    calls = []

    def model(x: Tensor) -> Tensor:
        calls.append(len(x))
        return MODEL(x)

    PGD(eps=0.05, steps=4, restarts=6, parallel_restarts=6)(model, X, Y, generator=SEEDS)
    assert calls == [48] * 5


def test_what_a_restart_has_broken_leaves_the_later_ones() -> None:
    """And what it leaves room for is filled: passes end long before those of all restarts."""
    attack = PGD(eps=0.05, steps=4, restarts=6, stop_early=True, parallel_restarts=6)
    result = attack.run(MODEL, X, Y, generator=SEEDS)
    assert 0 < int(result.success.sum()) < 8
    assert (result.gradients[~result.success] == 24).all()
    assert (result.gradients[result.success] < 24).any()
    alone = replace(attack, parallel_restarts=1).run(MODEL, X, Y, generator=SEEDS)
    first = alone.success & (alone.gradients <= 4)
    assert bool(first.any())
    assert (result.gradients[first] <= 6 * alone.gradients[first]).all()  # all leave when the first restart succeeds


@pytest.mark.parametrize("norm", [Linf, L2], ids=repr)
def test_many_targets_are_the_best_of_single_targets(norm: Norm) -> None:
    eps = 0.05 if norm is Linf else 0.3
    attack = PGD(eps=eps, norm=norm, steps=5, targets=3, loss=LogitDifference(), random_start=False)
    rivals = MODEL(X).scatter(1, Y[:, None], -torch.inf).topk(3, 1).indices
    single = replace(attack, targets=0)
    seen = [single(MODEL, X, Y, target=rivals[:, turn]) for turn in range(3)]
    values = torch.stack([margin(MODEL(x), Y) for x in seen])
    assert len(values.argmax(0).unique()) > 1, "one target wins everywhere, so nothing was tested"
    expected = torch.stack([seen[int(best)][row] for row, best in enumerate(values.argmax(0))])
    torch.testing.assert_close(attack(MODEL, X, Y), expected, rtol=0, atol=1e-9)
    given = (Y + 1) % 10
    assert torch.equal(attack(MODEL, X, Y, target=given), single(MODEL, X, Y, target=given))


@pytest.mark.parametrize(
    ("name", "value", "least"), [("steps", -1, 0), ("restarts", 0, 1), ("targets", -1, 0), ("parallel_restarts", 0, 1)]
)
def test_impossible_settings_are_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"PGD needs {name} >= {least}; got {value}"):
        PGD(**{name: value})
    with pytest.raises(ValueError, match="KL has no targeted form; use LogitDifference"):
        PGD(targets=3, loss=KL())


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("norm", "most"), [(Linf, 18), (L2, 106), (L1, 53)], ids=repr)
def test_a_step_asks_little_beside_its_passes(norm: Norm, most: int) -> None:
    """Seconds differ with the machine, so operations are counted; the bare pass of this small net has about 40."""

    def asked(work: Callable[[], object]) -> int:
        with Operations() as operations:
            work()
        return operations.count

    def run(steps: int) -> int:
        return asked(lambda: PGD(eps=0.3, norm=norm, steps=steps, step_size=0.1)(MODEL, X, Y, generator=SEEDS))

    bare = asked(lambda: gradient(X, Y, CrossEntropy()))
    assert (run(12) - run(2)) / 10 - bare <= most


def test_defaults_are_madrys() -> None:
    assert str(PGD()) == "PGD()"
    assert isinstance(PGD(), Attack)
    explicit = PGD(eps=8 / 255, steps=10, step_size=2 / 255)
    assert torch.equal(PGD()(MODEL, X, Y, generator=SEEDS), explicit(MODEL, X, Y, generator=SEEDS))


@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=repr)
def test_few_steps_find_the_worst_image_of_two_classes(norm: Norm) -> None:
    """Of an affine model with two classes, the first gradient is the last one, so that a wrong direction shows."""
    for seed, edge in ((0, False), (1, True)):
        model, eps = affine(seed, classes=2, edge=edge), {L1: 1.5, L2: 0.4, Linf: 0.1}[norm]
        attack = PGD(eps=eps, norm=norm, steps=30, step_size=eps / 3, random_start=False, loss=Margin())
        reached = Margin()(model(attack(model, model.x, model.y)), Goal(model.y))
        torch.testing.assert_close(reached, model.worst_margin(norm, eps), rtol=1e-3, atol=1e-3)

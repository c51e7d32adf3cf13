"""Carlini and Wagner's L2 attack against a slow version for one image, with autograd on w and torch's own Adam."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from affine import affine, images, small_net
from steelman.attacks import CarliniWagner, DeepFool
from steelman.losses import margin
from steelman.norms import L2, Linf

MODEL = small_net()
X = images(3, seed=3)
Y = MODEL(X).argmax(1)


def perceptron() -> nn.Module:
    """Smaller than `MODEL`: the slow version asks it thousands of times."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        last = nn.Linear(16, 10)
        net = nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.Tanh(), last).double().requires_grad_(False)
    last.weight *= 4
    return net


def reference(
    model: nn.Module, attack: CarliniWagner, x: Tensor, y: int, target: int | None
) -> tuple[Tensor | None, list[float]]:
    """The nearest success in the paper's space, before the last bisection, and every constant that was tried."""

    wanted = y if target is None else target
    others = [k for k in range(10) if k != wanted]

    def gap(logits: Tensor) -> Tensor:
        """Of f6 without its hinge: at most -confidence where the wanted margin is there."""
        return (logits[0, wanted] - logits[0, others].max()) * (1 if target is None else -1)

    def reached(logits: Tensor) -> bool:
        if attack.confidence > 0:
            return float(gap(logits)) < -attack.confidence
        best = int(logits.argmax())
        return best != y if target is None else best == target

    low, high, c, constants = 0.0, float("inf"), attack.c, []
    best, nearest = None, float("inf")
    tenth = max(attack.steps // 10, 1)
    for search_step in range(attack.search_steps):
        if attack.search_steps >= 10 and search_step == attack.search_steps - 1 and high < float("inf"):
            c = high
        constants.append(c)
        w = torch.atanh((2 * x - 1) * 0.999999).requires_grad_()
        adam = torch.optim.Adam([w], lr=attack.step_size)
        previous, recent = float("inf"), []
        for step in range(attack.steps):
            image = (torch.tanh(w) + 1) / 2
            logits = model(image)
            distance = (image - x).square().sum()
            squared, done = float(distance.detach()), reached(logits.detach())
            objective = distance + c * (gap(logits) + attack.confidence).clamp(min=0)
            if done and squared < nearest:
                best, nearest = image.detach().clone(), squared
            recent.append(done)
            adam.zero_grad()
            objective.backward()
            adam.step()
            if step % tenth == 0:
                if attack.abort_early and float(objective.detach()) > 0.9999 * previous:
                    break
                previous = float(objective.detach())
                if step + tenth <= attack.steps:
                    recent = recent[-1:]
        if any(recent):
            high = min(high, c)
        else:
            low = max(low, c)
        c = (low + high) / 2 if high < float("inf") else 10 * c
    return best, constants


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"confidence": 0.5}, {"abort_early": False}, {"search_steps": 10, "steps": 10}, {"c": 1e-4}],
    ids=repr,
)
def test_it_is_the_slow_version(targeted: bool, settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model = perceptron()
    y = model(X).argmax(1)
    target = (y + 1) % 10 if targeted else None
    attack = CarliniWagner(
        **{
            "steps": 20,
            "search_steps": 4,
            "c": 0.1,
            "step_size": 0.1,
            "retry_target": False,
            "warm_start": False,
            "polish": 0,
        }
        | settings
    )
    tried: list[Tensor] = []
    descend = CarliniWagner._descend

    def spy(self: CarliniWagner, rest: Any, start: Tensor, c: Tensor, *others: Any) -> Any:
        tried.append(c)
        return descend(self, rest, start, c, *others)

    monkeypatch.setattr(CarliniWagner, "_descend", spy)
    monkeypatch.setattr(CarliniWagner, "_shorten", lambda self, rest, best: best)
    x_adv = attack(model, X, y, target=target)
    succeeded = 0
    for row in range(len(X)):
        one = slice(row, row + 1)
        best, constants = reference(model, attack, X[one], int(y[row]), None if target is None else int(target[row]))
        torch.testing.assert_close(torch.stack(tried)[:, row].tolist(), constants, rtol=1e-9, atol=0)
        torch.testing.assert_close(x_adv[one], X[one] if best is None else best, rtol=0, atol=1e-6)
        succeeded += best is not None
    assert succeeded or targeted, "no search succeeded, so nothing was tested"


def test_the_last_bisection_only_shortens_and_keeps_success() -> None:
    attack = CarliniWagner(steps=20, search_steps=2, c=1.0, step_size=0.1, warm_start=False, polish=0)
    result = attack.run(MODEL, X, Y)
    shorter = X + 0.995 * (result.x_adv - X)
    assert bool(result.success.all())
    assert torch.equal(MODEL(shorter).argmax(1), Y), "a success half a per cent nearer was missed"


def test_a_warm_search_begins_at_twice_the_stationary_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Tensor] = []
    descend = CarliniWagner._descend

    def spy(self: CarliniWagner, rest: Any, start: Tensor, c: Tensor, *others: Any) -> Any:
        tried.append(c.clone())
        return descend(self, rest, start, c, *others)

    monkeypatch.setattr(CarliniWagner, "_descend", spy)
    CarliniWagner(steps=2, search_steps=1, polish=0)(MODEL, X, Y)
    start = DeepFool()(MODEL, X, Y).requires_grad_()
    (slope,) = torch.autograd.grad(margin(MODEL(start), Y).sum(), start)
    owed = 2 * ((start.detach() - X) * slope).flatten(1).sum(1) / slope.flatten(1).square().sum(1)
    assert bool((owed > 0).all())
    torch.testing.assert_close(tried[0], 2 * owed)


@pytest.mark.parametrize("encoding", ["tanh", "clipped", "projected"])
@pytest.mark.parametrize("name", ["f1", "f5", "f6", "f7"])
def test_objectives_and_encodings_find_the_optimum(name: Any, encoding: Any) -> None:
    model = affine(1, images=4)
    rival = model.nearest_rival(L2)
    attack = CarliniWagner(
        steps=25, search_steps=3, c=0.5, step_size=0.01, objective=name, encoding=encoding, warm_start=False
    )
    result = attack.run(model, model.x, model.y, target=rival)
    assert bool(result.success.all())
    assert (result.l2 <= 1.02 * model.nearest(L2) + 2e-5).all()


def test_a_second_search_keeps_the_nearer_of_two_rivals() -> None:
    model = affine(0, images=16)
    attack = CarliniWagner(steps=60, search_steps=4, c=0.1, warm_start=False)
    both = attack.run(model, model.x, model.y)
    once = replace(attack, retry_target=False).run(model, model.x, model.y)
    assert bool(once.success.all())
    assert bool((both.l2 <= once.l2).all())
    assert float((both.l2 / once.l2).min()) < 0.98


def test_a_warm_start_is_nearer_for_fewer_passes() -> None:
    x = images(12, seed=4)
    y = MODEL(x).argmax(1)
    attack = CarliniWagner(steps=30, search_steps=3, c=0.5)
    warm, cold = attack.run(MODEL, x, y), replace(attack, warm_start=False).run(MODEL, x, y)
    assert bool(warm.success.all())
    assert float((warm.l2 / cold.l2).median()) <= 1.01
    assert int(warm.gradients.sum()) < int(cold.gradients.sum()) / 2


def test_confidence_is_the_margin_in_logits() -> None:
    model = affine(0, images=6)
    for confidence in (0.0, 0.2, 1.0):
        attack = CarliniWagner(steps=60, search_steps=3, c=1.0, confidence=confidence)
        logits = model(attack(model, model.x, model.y))
        own = logits.gather(1, model.y[:, None])[:, 0]
        margin = logits.scatter(1, model.y[:, None], -torch.inf).amax(1) - own
        assert (margin > confidence).all()
        assert (margin < confidence + 0.1).all()


def test_images_without_a_success_come_back_unchanged() -> None:
    result = CarliniWagner(steps=2, search_steps=1, c=1e-6, warm_start=False, retry_target=False).run(MODEL, X, Y)
    assert not bool(result.success.any())
    assert torch.equal(result.x_adv, X)


def test_images_that_have_converged_leave_the_batch() -> None:
    model = affine(0, images=8)
    attack = CarliniWagner(steps=50, search_steps=3, c=1.0, warm_start=False, retry_target=False, polish=0)
    result = attack.run(model, model.x, model.y)
    full = replace(attack, abort_early=False).run(model, model.x, model.y)
    assert full.gradients.tolist() == [150] * 8
    assert len(result.gradients.unique()) > 1
    assert int(result.gradients.sum()) < int(full.gradients.sum())
    assert float((result.l2 / full.l2).median()) < 1.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": Linf}, "needs norm=L2; got Linf. CarliniWagnerL0 and"),
        ({"confidence": 1.0, "objective": "f2"}, "f6 and f7 only"),
        ({"box": None}, "maps onto the box"),
        ({"steps": 0}, "needs steps >= 1"),
        ({"c": 0.0}, "needs c > 0"),
        ({"confidence": -1.0}, "confidence >= 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CarliniWagner(**settings)

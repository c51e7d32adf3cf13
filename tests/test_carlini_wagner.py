"""Carlini and Wagner's attack against a slow version for one image, with autograd on w and torch's own Adam."""

from typing import Any

import pytest
import torch
from torch import Tensor

from affine import affine, images, small_net
from steelman.attacks import CarliniWagner
from steelman.norms import L2, Linf

MODEL = small_net()
X = images(4, seed=3)
Y = MODEL(X).argmax(1)


def reference(attack: CarliniWagner, x: Tensor, y: int, target: int | None) -> tuple[Tensor | None, list[float]]:
    """The nearest success in the paper's space, before the last bisection, and every constant that was tried."""

    def gap(logits: Tensor) -> Tensor:
        """Of f6 without its hinge: at most -confidence where the wanted margin is there."""
        wanted = y if target is None else target
        rest = max(z for k, z in enumerate(logits[0]) if k != wanted)
        return (logits[0, wanted] - rest) * (1 if target is None else -1)

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
            logits = MODEL(image)
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
    [{}, {"confidence": 0.5}, {"abort_early": False}, {"search_steps": 10, "steps": 25}, {"c": 1e-4}],
    ids=repr,
)
def test_it_is_the_slow_version(targeted: bool, settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    target = (Y + 1) % 10 if targeted else None
    attack = CarliniWagner(
        **{"steps": 40, "search_steps": 4, "c": 0.1, "step_size": 0.1, "second_look": False, "warm_start": False}
        | settings
    )
    tried: list[Tensor] = []
    descend = CarliniWagner._descend

    def spy(self: CarliniWagner, oracle: object, x: Tensor, start: Tensor, goal: object, c: Tensor, *rest: Any) -> Any:
        tried.append(c)
        return descend(self, oracle, x, start, goal, c, *rest)

    monkeypatch.setattr(CarliniWagner, "_descend", spy)
    monkeypatch.setattr(CarliniWagner, "_shorten", lambda self, oracle, x, best, goal, which: best)
    x_adv = attack(MODEL, X, Y, target=target)
    found = 0
    for row in range(len(X)):
        one = slice(row, row + 1)
        best, constants = reference(attack, X[one], int(Y[row]), None if target is None else int(target[row]))
        torch.testing.assert_close(torch.stack(tried)[:, row].tolist(), constants, rtol=1e-9, atol=0)
        torch.testing.assert_close(x_adv[one], X[one] if best is None else best, rtol=0, atol=1e-6)
        found += best is not None
    assert found or targeted, "nothing was found, so nothing was tested"


def test_the_last_bisection_only_shortens_and_keeps_success() -> None:
    attack = CarliniWagner(steps=30, search_steps=3, c=1.0, step_size=0.1)
    result = attack.run(MODEL, X, Y)
    shorter = X + 0.995 * (result.x_adv - X)
    assert bool(result.success.all())
    assert torch.equal(MODEL(shorter).argmax(1), Y), "a success half a per cent nearer was missed"


def test_confidence_is_the_margin_in_logits() -> None:
    model = affine(0, images=6)
    for confidence in (0.0, 0.2, 1.0):
        attack = CarliniWagner(steps=200, search_steps=4, c=1.0, confidence=confidence)
        logits = model(attack(model, model.x, model.y))
        own = logits.gather(1, model.y[:, None])[:, 0]
        margin = logits.scatter(1, model.y[:, None], -torch.inf).amax(1) - own
        assert (margin > confidence).all()
        assert (margin < confidence + 0.1).all()


def test_what_is_not_found_comes_back_as_it_was() -> None:
    result = CarliniWagner(steps=2, search_steps=1, c=1e-6, warm_start=False, second_look=False).run(MODEL, X, Y)
    assert not bool(result.success.any())
    assert torch.equal(result.x_adv, X)


def test_done_images_leave() -> None:
    model = affine(0, images=12)
    result = CarliniWagner(steps=100, search_steps=3, c=1.0, warm_start=False, second_look=False).run(
        model, model.x, model.y
    )
    full = CarliniWagner(steps=100, search_steps=3, c=1.0, abort_early=False, warm_start=False, second_look=False).run(
        model, model.x, model.y
    )
    assert full.gradients.tolist() == [300] * 12
    assert len(result.gradients.unique()) > 1
    assert int(result.gradients.sum()) < int(full.gradients.sum())
    assert float((result.l2 / full.l2).median()) < 1.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": Linf}, "is the L2 attack; for Linf, see"),
        ({"confidence": 1.0, "objective": "f2"}, "f6 and f7 only"),
        ({"box": None}, "maps onto the box"),
        ({"steps": 0}, "needs positive steps"),
        ({"c": 0.0}, "needs positive steps"),
        ({"confidence": -1.0}, "confidence >= 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CarliniWagner(**settings)


def test_the_norm_is_a_field_like_everywhere() -> None:
    assert CarliniWagner(norm=L2) == CarliniWagner()

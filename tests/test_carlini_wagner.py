"""Carlini and Wagner's attack against a slow version for one image, with autograd on w and torch's own Adam."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from affine import affine, images, small_net
from steelman.attacks import CarliniWagner, CarliniWagnerL0, CarliniWagnerLinf
from steelman.attacks.carlini_wagner.descent import Variable
from steelman.attacks.carlini_wagner.objectives import Objective
from steelman.attacks.nearest import first_look
from steelman.attacks.oracle import Oracle
from steelman.attacks.over_targets import over_targets
from steelman.losses import Goal
from steelman.norms import L0, L2, Linf

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
        **{
            "steps": 40,
            "search_steps": 4,
            "c": 0.1,
            "step_size": 0.1,
            "second_look": False,
            "warm_start": False,
            "polish": 0,
        }
        | settings
    )
    tried: list[Tensor] = []
    descend = CarliniWagner._descend

    def spy(self: CarliniWagner, oracle: Any, x: Tensor, start: Tensor, goal: Any, c: Tensor, *rest: Any) -> Any:
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
    attack = CarliniWagner(steps=30, search_steps=3, c=1.0, step_size=0.1, polish=0)
    result = attack.run(MODEL, X, Y)
    shorter = X + 0.995 * (result.x_adv - X)
    assert bool(result.success.all())
    assert torch.equal(MODEL(shorter).argmax(1), Y), "a success half a per cent nearer was missed"


NAMES = ("f1", "f2", "f3", "f4", "f5", "f6", "f7")


def by_hand(name: str, logits: Tensor, fixed: int, targeted: bool, confidence: float) -> Tensor:
    """The paper's objectives for one image, written out."""
    shares = logits.exp() / logits.exp().sum()
    rivals = [k for k in range(len(logits)) if k != fixed]
    moving = max(rivals, key=lambda k: float(logits[k].detach()))
    w, o = (fixed, moving) if targeted else (moving, fixed)
    gap, margin = shares[o] - shares[w], logits[o] - logits[w] + confidence
    return {
        "f1": -shares[w].log() - 1,
        "f2": gap.clamp(min=0),
        "f3": (1 + gap.exp()).log() - math.log(2),
        "f4": (0.5 - shares[w]).clamp(min=0),
        "f5": -(2 * shares[w]).log(),
        "f6": margin.clamp(min=0),
        "f7": (1 + margin.exp()).log() - math.log(2),
    }[name]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_objectives_are_the_papers_with_their_gradients(name: Any, targeted: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(40, 5, generator=generator, dtype=torch.float64)
    y = torch.arange(40) % 5
    goal = Goal(y, (y + 1) % 5) if targeted else Goal(y)
    for confidence in (0.0, 0.7) if name in ("f6", "f7") else (0.0,):
        f = Objective(name, confidence)

        def value(rows: Tensor, f: Objective = f) -> Tensor:
            return f(rows, goal).clamp(min=0) if f.hinged else f(rows, goal)

        fixed = goal.labels if goal.target is None else goal.target
        expected = torch.stack(
            [by_hand(name, row, int(k), targeted, confidence) for row, k in zip(logits, fixed, strict=True)]
        )
        torch.testing.assert_close(value(logits), expected)
        rows = logits.clone().requires_grad_()
        (slope,) = torch.autograd.grad(value(rows).sum(), rows)
        for k in range(5):
            nudge = 1e-6 * torch.eye(5, dtype=torch.float64)[k]
            difference = (value(logits + nudge) - value(logits - nudge)) / 2e-6
            torch.testing.assert_close(slope[:, k], difference, rtol=1e-5, atol=1e-7)
        reached = goal.reached(logits)
        assert bool(reached.any())
        assert not bool(reached.all())
        if name in ("f2", "f3", "f6", "f7") and confidence == 0:
            assert torch.equal(f(logits, goal) <= 0, reached)
        if name in ("f4", "f5"):
            assert bool(reached[f(logits, goal) <= 0].all())


@pytest.mark.parametrize("encoding", ["tanh", "clipped", "projected"])
def test_encodings_stay_in_the_box_with_their_gradients(encoding: Any) -> None:
    variable, box = Variable(encoding, (-0.5, 1.5)), (-0.5, 1.5)
    x = images(3) * 2 - 0.5
    w = variable.encode(x)
    torch.testing.assert_close(variable.decode(w)[0], x, rtol=0, atol=1e-5)
    w = w + 0.4 * torch.randn(w.shape, generator=torch.Generator().manual_seed(1), dtype=w.dtype)
    variable.settle(w)
    image, chain = variable.decode(w)
    assert float(image.min()) >= box[0]
    assert float(image.max()) <= box[1]
    if encoding == "projected":
        assert torch.equal(image, w)
        assert chain == 1
        return
    difference = (variable.decode(w + 1e-6)[0] - variable.decode(w - 1e-6)[0]) / 2e-6
    torch.testing.assert_close(chain, difference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("encoding", ["tanh", "clipped", "projected"])
@pytest.mark.parametrize("name", ["f1", "f5", "f6", "f7"])
def test_objectives_and_encodings_find_the_optimum(name: Any, encoding: Any) -> None:
    model = affine(1, images=6)
    rival = model.nearest_rival(L2)
    attack = CarliniWagner(
        steps=150, search_steps=5, c=0.1, step_size=0.01, objective=name, encoding=encoding, warm_start=False
    )
    result = attack.run(model, model.x, model.y, target=rival)
    assert bool(result.success.all())
    assert (result.l2 <= 1.02 * model.nearest(L2) + 2e-5).all()


def test_a_warm_start_is_nearer_for_fewer_passes() -> None:
    x = images(20, seed=4)
    y = MODEL(x).argmax(1)
    attack = CarliniWagner(steps=60, search_steps=5, c=0.1)
    warm, cold = attack.run(MODEL, x, y), replace(attack, warm_start=False).run(MODEL, x, y)
    assert bool(warm.success.all())
    assert float((warm.l2 / cold.l2).median()) <= 1.01
    assert int(warm.gradients.sum()) < int(cold.gradients.sum()) / 2


def test_linf_rounds_shrink_the_ball_and_the_polish_mends_what_they_leave() -> None:
    """Without start and polish most images end a tenth above the optimum, some higher; with the polish none does."""
    model = affine(2, images=8)
    rival, optimum = model.nearest_rival(Linf), model.nearest(Linf)
    rounds = CarliniWagnerLinf(steps=100, c=0.1, c_factor=10.0, step_size=0.002, warm_start=False, polish=0)
    result = rounds.run(model, model.x, model.y, target=rival)
    assert bool(result.success.all())
    assert float((result.linf / optimum).median()) <= 1 / 0.9
    polished = replace(rounds, polish=2).run(model, model.x, model.y, target=rival)
    assert float((polished.linf / optimum).max()) <= 1.02


def test_a_second_look_keeps_the_nearer_of_two_rivals() -> None:
    model = affine(0, images=16)
    attack = CarliniWagner(steps=60, search_steps=4, c=0.1, warm_start=False)
    both = attack.run(model, model.x, model.y)
    once = replace(attack, second_look=False).run(model, model.x, model.y)
    assert bool(once.success.all())
    assert bool((both.l2 <= once.l2).all())
    assert float((both.l2 / once.l2).min()) < 0.98


@pytest.mark.parametrize("targeted", [False, True])
def test_linf_rounds_are_those_of_the_card(targeted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a round that is done, the ball and the image go on; after one that fails, the constant grows."""
    attack = CarliniWagnerLinf(steps=40, c=0.001, c_factor=10.0, step_size=0.02, warm_start=False, polish=0)
    rounds: list[tuple[Tensor, ...]] = []
    one_round = CarliniWagnerLinf._round

    def spy(self: Any, oracle: Any, x: Tensor, start: Tensor, tau: Tensor, goal: Any, c: Tensor, which: Tensor) -> Any:
        image, done = one_round(self, oracle, x, start, tau, goal, c, which)
        rounds.append((start.clone(), tau, c, image, done))
        return image, done

    monkeypatch.setattr(CarliniWagnerLinf, "_round", spy)
    model = affine(2, images=8)
    row = int(model.nearest(Linf).argmax())
    x, y = model.x[row : row + 1], model.y[row : row + 1]
    target = (y + 1) % 10 if targeted else None
    assert bool(attack.run(model, x, y, target=target).success)
    assert {bool(done) for *_, done in rounds} == {False, True}
    far = 0
    for (_, tau, c, image, done), (next_start, next_tau, next_c, _, _) in pairwise(rounds):
        reach = float((image - x).abs().max())
        if bool(done):
            prediction = model(image).argmax(1)
            assert bool(prediction == target if target is not None else prediction != y)
            assert float(((image - x).abs() - tau).clamp(min=0).sum()) < 1e-4 * float(c)
            assert float(next_tau) == pytest.approx(0.9 * min(float(tau), reach))
            assert torch.equal(next_start, image)
            far += reach < float(tau)
        else:
            assert torch.equal(next_tau, tau)
        assert float(next_c) == pytest.approx(float(c) if bool(done) else 10 * float(c))
    assert far > 0


def test_l0_freezes_whole_pixels() -> None:
    """Three channels: greedy alone changes all of a pixel or nothing, and fewer pixels than it began with."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3 * 20, generator=generator, dtype=torch.float64)
    x = torch.rand(6, 3, 4, 5, generator=generator, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T

    attack = CarliniWagnerL0(steps=60, c=0.1, c_factor=10.0, c_max=100.0, step_size=0.05, polish=0)
    result = attack.run(model, x, model(x).argmax(1))
    changed = result.x_adv != x
    assert bool(result.success.all())
    pixels = changed.any(1).flatten(1).sum(1)
    assert float(changed.flatten(1).sum(1).sum()) > 2.5 * float(pixels.sum()), "channels were frozen one by one"
    assert int(pixels.max()) <= 10


@pytest.mark.parametrize("edge", [False, True])
def test_l0_freezes_the_pixels_of_least_effect(edge: bool) -> None:
    """Without a polish, which would hide the order: of an affine model, the fewest pixels are known."""
    attack = CarliniWagnerL0(steps=60, c=0.1, c_factor=10.0, c_max=1e3, step_size=0.05, polish=0)
    for seed in range(2):
        model = affine(seed, images=12, edge=edge)
        result = attack.run(model, model.x, model.y)
        assert bool(result.success.all())
        assert float((result.l0 / model.nearest_in_box(L0)).mean()) <= 1.1  # in reverse order, 1.6 to 3.8


def test_l0_keeps_the_fewer_pixels_of_search_and_look() -> None:
    attack = CarliniWagnerL0(steps=3, c=0.1, c_factor=10.0, c_max=100.0, step_size=0.05, freeze=2.0, polish=1)
    x = images(24, seed=3)
    goal, which = Goal(MODEL(x).argmax(1)), torch.arange(24)
    with Oracle(MODEL, goal) as oracle:
        searched = attack._polish(oracle, x, attack._greedy(oracle, x, goal, which), goal, which)
        look = first_look(oracle, x, goal, L0, attack.box, 10)[0]
        look = torch.where(goal.reached(oracle.logits(look)).reshape(-1, 1, 1, 1), look, x)
        looked = attack._polish(oracle, x, look, goal, which)
    counts = torch.stack([L0.size(each - x) for each in (searched, looked)])
    counts = counts.where(counts > 0, torch.inf)  # 0: nothing was found
    assert bool((counts[0] < counts[1]).any())
    assert bool(((counts[1] < counts[0]) & counts[0].isfinite()).any())
    assert torch.equal(attack.run(MODEL, x, goal.labels).l0, counts.amin(0))


def test_over_targets_is_the_attack_at_every_wrong_class() -> None:
    attack = CarliniWagner(steps=20, search_steps=2, c=1.0, step_size=0.1)
    found = over_targets(attack, MODEL, X, Y, batch_size=7)
    assert found.target.shape == (4, 9)
    for turn in range(9):
        target = (Y + 1 + turn) % 10
        alone = attack.run(MODEL, X, Y, target=target)
        assert torch.equal(found.target[:, turn], target)
        assert torch.equal(found.success[:, turn], alone.success)
        torch.testing.assert_close(found.x_adv[:, turn], alone.x_adv, rtol=0, atol=1e-7)
        torch.testing.assert_close(found.size[:, turn], alone.l2.where(alone.success, torch.inf))
    assert torch.equal(found.best[0], found.size.min(1).values)
    assert torch.equal(found.best[1], found.success.any(1))
    assert torch.equal(found.worst[0].isfinite(), found.success.all(1))
    assert torch.equal(found.worst[1], found.success.all(1))
    assert found.average[0].shape == (36,)


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
    result = CarliniWagner(steps=100, search_steps=3, c=1.0, warm_start=False, second_look=False, polish=0).run(
        model, model.x, model.y
    )
    full = CarliniWagner(
        steps=100, search_steps=3, c=1.0, abort_early=False, warm_start=False, second_look=False, polish=0
    ).run(model, model.x, model.y)
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


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (CarliniWagnerLinf, {"norm": L2}, "is the Linf attack; got L2"),
        (CarliniWagnerLinf, {"c": 30.0}, "0 < c <= c_max"),
        (CarliniWagnerLinf, {"shrink": 1.0}, "shrink between 0 and 1"),
        (CarliniWagnerLinf, {"encoding": "tanh", "box": None}, "maps onto the box"),
        (CarliniWagnerL0, {"norm": L2}, "is the L0 attack; got L2"),
        (CarliniWagnerL0, {"box": None}, "one pixel that goes far enough"),
        (CarliniWagnerL0, {"c_factor": 1.0}, "c_factor > 1"),
        (CarliniWagnerL0, {"freeze": 0.0}, "freeze > 0"),
    ],
)
def test_impossible_settings_of_the_others_are_refused(kind: Any, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_the_norm_is_a_field_like_everywhere() -> None:
    assert CarliniWagner(norm=L2) == CarliniWagner()
    assert CarliniWagnerLinf(norm=Linf) == CarliniWagnerLinf()
    assert CarliniWagnerL0(norm=L0) == CarliniWagnerL0()

"""Carlini and Wagner's Linf and L0 attacks: rounds, frozen pixels, polish and errors."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from affine import affine, images, small_net
from steelman.attacks import CarliniWagnerL0, CarliniWagnerLinf
from steelman.attacks.core import Oracle
from steelman.attacks.minimal.nearest import polish
from steelman.attacks.minimal.searching import Remaining, Successes, linearised_start
from steelman.losses import Goal
from steelman.norms import L0, L2, Linf

MODEL = small_net()


def one_round(attack: CarliniWagnerLinf, x: Tensor, y: int, tau: float, c: float) -> tuple[Tensor, bool]:
    """A Linf round for one image, with torch's own Adam."""
    image, w = x, x.clone().requires_grad_()
    adam = torch.optim.Adam([w], lr=attack.step_size)
    for _ in range(attack.steps):
        image = w.detach().clone()
        logits = MODEL(w)[0]
        gap = logits[y] - logits[[k for k in range(10) if k != y]].max()
        excess = ((w - x).abs() - tau).clamp(min=0).sum()
        if gap.item() < 0 and excess.item() < 1e-4 * c:
            return image, True
        adam.zero_grad()
        (excess + c * gap.clamp(min=0)).backward()
        adam.step()
        w.data.clamp_(0, 1)
    return image, False


def test_a_linf_round_is_the_slow_version() -> None:
    attack = CarliniWagnerLinf(steps=25, step_size=0.02, abort_early=False)
    x = images(6, seed=3)
    y = MODEL(x).argmax(1)
    tau, c = torch.full((6,), 0.08).double(), torch.tensor([0.02, 0.2, 1.0, 2.0, 5.0, 10.0]).double()
    with Oracle(MODEL, Goal(y)) as oracle:
        rest = Remaining(oracle, x, Goal(y), torch.arange(6), x, 0, Successes.none(x))
        image, done = attack._round(rest, x, tau, c)
    for row in range(6):
        expected, ended = one_round(attack, x[row : row + 1], int(y[row]), 0.08, float(c[row]))
        torch.testing.assert_close(image[row : row + 1], expected, rtol=0, atol=1e-9)
        assert bool(done[row]) == ended
    assert len(done.unique()) == 2


@pytest.mark.parametrize("targeted", [False, True])
def test_linf_rounds_are_those_of_the_card(targeted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a round that succeeds, the ball shrinks and the image is the next start; after a failure, c grows."""
    attack = CarliniWagnerLinf(steps=40, c=0.001, c_factor=10.0, step_size=0.02, warm_start=False, polish=0)
    rounds: list[tuple[Tensor, ...]] = []
    one = CarliniWagnerLinf._round

    def spy(self: Any, rest: Any, start: Tensor, tau: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        image, done = one(self, rest, start, tau, c)
        rounds.append((start.clone(), tau, c, image, done))
        return image, done

    monkeypatch.setattr(CarliniWagnerLinf, "_round", spy)
    model = affine(2, images=8)
    row = int(model.nearest(Linf).argmax())
    x, y = model.x[row : row + 1], model.y[row : row + 1]
    target = (y + 1) % 10 if targeted else None
    assert bool(attack.run(model, x, y, target=target).success)
    assert {bool(done) for *_, done in rounds} == {False, True}
    inside = 0
    for (_, tau, c, image, done), (next_start, next_tau, next_c, _, _) in pairwise(rounds):
        reach = float((image - x).abs().max())
        if bool(done):
            prediction = model(image).argmax(1)
            assert bool(prediction == target if target is not None else prediction != y)
            assert float(((image - x).abs() - tau).clamp(min=0).sum()) < 1e-4 * float(c)
            assert float(next_tau) == pytest.approx(0.9 * min(float(tau), reach))
            assert torch.equal(next_start, image)
            inside += reach < float(tau)
        else:
            assert torch.equal(next_tau, tau)
        assert float(next_c) == pytest.approx(float(c) if bool(done) else 10 * float(c))
    assert inside > 0


def test_linf_rounds_shrink_the_ball_and_the_polish_mends_what_they_leave() -> None:
    """Without start and polish most images end a tenth above the optimum, some higher; with the polish none does."""
    model = affine(2, images=5)
    rival, optimum = model.nearest_rival(Linf), model.nearest(Linf)
    rounds = CarliniWagnerLinf(steps=100, c=0.1, c_factor=10.0, step_size=0.002, warm_start=False, polish=0)
    result = rounds.run(model, model.x, model.y, target=rival)
    assert bool(result.success.all())
    assert float((result.linf / optimum).median()) <= 1 / 0.9
    polished = replace(rounds, polish=2).run(model, model.x, model.y, target=rival)
    assert float((polished.linf / optimum).max()) <= 1.02


def test_l0_freezes_whole_pixels() -> None:
    """Three channels: greedy alone changes all of a pixel or nothing, and fewer pixels than it began with."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3 * 20, generator=generator, dtype=torch.float64)
    x = torch.rand(6, 3, 4, 5, generator=generator, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight.T

    attack = CarliniWagnerL0(steps=40, c=0.1, c_factor=10.0, c_max=10.0, step_size=0.05, polish=0)
    result = attack.run(model, x, model(x).argmax(1))
    changed = result.x_adv != x
    assert bool(result.success.all())
    pixels = changed.any(1).flatten(1).sum(1)
    assert float(changed.flatten(1).sum(1).sum()) > 2.5 * float(pixels.sum()), "channels were frozen one by one"
    assert int(pixels.max()) <= 10


@pytest.mark.parametrize("edge", [False, True])
def test_l0_freezes_the_pixels_of_least_effect(edge: bool) -> None:
    """Without a polish, which would hide the order: of an affine model, the fewest pixels are known."""
    attack = CarliniWagnerL0(steps=40, c=0.1, c_factor=10.0, c_max=100.0, step_size=0.05, polish=0)
    for seed in range(2):
        model = affine(seed, images=10, edge=edge)
        result = attack.run(model, model.x, model.y)
        assert bool(result.success.all())
        assert float((result.l0 / model.nearest_in_box(L0)).mean()) <= 1.1  # in reverse order, 1.6 to 3.8


def test_l0_keeps_the_fewer_pixels_of_search_and_start() -> None:
    attack = CarliniWagnerL0(steps=3, c=0.1, c_factor=10.0, c_max=10.0, step_size=0.05, polish=1)
    x = images(16, seed=3)
    goal, which = Goal(MODEL(x).argmax(1)), torch.arange(16)
    with Oracle(MODEL, goal) as oracle:
        start, _, spent = linearised_start(oracle, x, goal, L0, attack.box, 10)
        rest = Remaining(oracle, x, goal, which, start, spent, Successes.none(x))
        reached = goal.reached(oracle.logits(start)).reshape(-1, 1, 1, 1)
        both = [attack._greedy(rest), torch.where(reached, start, x)]
        both = [polish(oracle, x, image, goal, L0, attack.box, 1, which) for image in both]
    counts = torch.stack([L0.size(each - x) for each in both])
    counts = counts.where(counts > 0, torch.inf)  # 0: no success
    assert bool((counts[0] < counts[1]).any())
    assert bool((counts[1] < counts[0]).any())
    assert torch.equal(attack.run(MODEL, x, goal.labels).l0, counts.amin(0))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (CarliniWagnerLinf, {"norm": L2}, "needs norm=Linf; got L2. CarliniWagner has L2"),
        (CarliniWagnerLinf, {"c": 30.0}, "needs c <= c_max"),
        (CarliniWagnerLinf, {"shrink": 1.0}, r"shrink in \(0, 1\)"),
        (CarliniWagnerLinf, {"encoding": "tanh", "box": None}, "maps onto the box"),
        (CarliniWagnerL0, {"norm": L2}, "needs norm=L0; got L2. CarliniWagner has L2"),
        (CarliniWagnerL0, {"box": None}, "one pixel that goes far enough"),
        (CarliniWagnerL0, {"c_factor": 1.0}, "needs c_factor > 1"),
        (CarliniWagnerL0, {"freeze": 0.0}, "needs freeze > 0"),
    ],
)
def test_impossible_settings_of_the_others_are_refused(kind: Any, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)

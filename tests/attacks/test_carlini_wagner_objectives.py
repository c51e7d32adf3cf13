"""The seven objectives of Carlini and Wagner, and the variables that keep images in the box, with their gradients."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from affine import affine, images
from steelman.attacks import CarliniWagner
from steelman.attacks.minimal.carlini_wagner.descent import Variable
from steelman.attacks.minimal.carlini_wagner.objectives import CWObjective
from steelman.losses import Goal

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
        f = CWObjective(name, confidence)

        def value(rows: Tensor, f: CWObjective = f) -> Tensor:
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


@pytest.mark.parametrize("objective", ["f2", "f3", "f4"])
def test_objectives_on_probabilities_need_large_constants_of_a_sure_model(objective: str) -> None:
    """Their slopes are about as small as the probabilities of the wrong classes, also in double precision."""
    model = affine(0, images=60, scale=80.0)
    unsure = 1 - model(model.x).softmax(1).amax(1)
    rows = torch.where((unsure < 1e-4) & (unsure > 1e-14))[0]
    x, y, unsure = model.x[rows], model.y[rows], unsure[rows]
    attack = CarliniWagner(
        objective=objective,  # pyright: ignore[reportArgumentType]
        steps=50,
        search_steps=1,
        encoding="projected",
        warm_start=False,
        retry_target=False,
        polish=0,
    )

    def won(**settings: Any) -> Tensor:
        return replace(attack, **settings).run(model, x, y).success

    small = won(c=1e-3)
    assert bool(won(c=1e-3, objective="f6").all())
    assert 5 < int(small.sum()) < len(rows) - 5
    assert float(unsure[~small].median()) < float(unsure[small].median()) / 10
    assert bool(won(c=1e3).all())

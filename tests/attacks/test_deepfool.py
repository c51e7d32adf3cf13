"""DeepFool against the algorithm, one image at a time in numpy."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from affine import affine, images, small_net
from steelman.attacks import DeepFool
from steelman.norms import L0, L1, L2, Linf, Norm

MODEL = small_net()
X = images(4)
Y = MODEL(X).argmax(1)


def jacobian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = torch.tensor(x)[None].requires_grad_()
    logits = MODEL(image)[0]
    rows = [torch.autograd.grad(logit, image, retain_graph=True)[0][0].numpy() for logit in logits]
    return logits.detach().numpy(), np.stack(rows)


def reference(
    x: np.ndarray,
    label: int,
    target: int | None,
    p: float,
    *,
    steps: int,
    overshoot: float,
    classes: int,
    clip: bool,
) -> tuple[np.ndarray, int]:
    """Algorithm 2, linearised at x + r; also how many steps it took."""

    def bounded(image: np.ndarray) -> np.ndarray:
        return image.clip(0, 1) if clip else image

    def done(image: np.ndarray) -> bool:
        best = int(jacobian(image)[0].argmax())
        return best != label if target is None else best == target

    if done(x):
        return x, 0
    order = [int(k) for k in np.argsort(-jacobian(x)[0]) if k != label][: classes - 1]
    r = np.zeros_like(x)
    took = 0
    while took < steps:
        took += 1
        logits, slopes = jacobian(x + r)
        own = label if target is None else max((k for k in range(10) if k != target), key=lambda k: logits[k])
        nearest, shortest = None, np.inf
        for k in order if target is None else [target]:
            f, w = logits[k] - logits[own], slopes[k] - slopes[own]
            q = p / (p - 1) if p < math.inf else 1.0
            size = (np.abs(w) ** q).sum() ** (1 / q)
            if abs(f) / size < shortest:
                shortest = abs(f) / size
                nearest = abs(f) / size**q * np.abs(w) ** (q - 1) * np.sign(w)
        assert nearest is not None
        r = bounded(x + r + nearest) - x
        shot = bounded(x + (1 + overshoot) * r)
        if done(shot):
            break
    return shot, took


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("p", "settings"),
    [
        *((p, settings) for p in (2.0, math.inf) for settings in ({}, {"box": None, "overshoot": 0.3})),
        *((3.0, {}), (2.0, {"classes": 3}), (math.inf, {"steps": 2})),
    ],
    ids=repr,
)
def test_it_is_the_algorithm(p: float, targeted: bool, settings: dict) -> None:
    target = (Y + 2) % 10 if targeted else None
    y = Y.clone()
    y[0] = (y[0] + 1) % 10  # misclassified to begin with
    attack = DeepFool(p=p, slack=math.inf, **{"steps": 10} | settings)  # rounding grows from step to step
    result = attack.run(MODEL, X, y, target=target)
    steps = []
    for row in range(len(X)):
        wanted, took = reference(
            X[row].numpy(),
            int(y[row]),
            None if target is None else int(target[row]),
            p,
            steps=attack.steps,
            overshoot=attack.overshoot,
            classes=attack.classes,
            clip=attack.box is not None,
        )
        np.testing.assert_allclose(result.x_adv[row].numpy(), wanted, rtol=0, atol=1e-9)
        steps.append(took)
    assert len(set(steps)) > 1 or attack.steps == 2, "all images take equally long: their leaving was not tested"
    # Done images leave: each has cost its own steps and no more.
    rivals = 1 if targeted else attack.classes - 1
    assert result.gradients.tolist() == [took * rivals for took in steps]
    assert result.forwards.tolist() == [1 + 2 * took for took in steps]


def test_the_overshoot_is_of_the_whole_perturbation() -> None:
    model = affine(0)
    for overshoot in (0.02, 0.5):
        result = DeepFool(overshoot=overshoot, box=None).run(model, model.x, model.y)
        torch.testing.assert_close(result.l2, (1 + overshoot) * model.nearest(L2), rtol=1e-6, atol=1e-12)


def test_fewer_classes_are_those_of_the_highest_logits() -> None:
    model = affine(5)
    x_adv = DeepFool(classes=2)(model, model.x, model.y)
    second: Tensor = model(model.x).topk(2, dim=1).indices[:, 1]
    assert torch.equal(model(x_adv).argmax(1), second)


WRONG = [
    {"steps": 0},
    {"classes": 1},
    {"overshoot": -0.1},
    {"overshoot": math.nan},
    {"slack": 0.9},
    {"p": 1.0},
    {"p": math.nan},
    {"norm": L0},
]


@pytest.mark.parametrize("settings", WRONG, ids=repr)
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="DeepFool needs"):
        DeepFool(**settings)


@pytest.mark.parametrize("p", [1.05, 1.4, 4.0, 50.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_any_exponent_finds_the_optimum_of_affine_models(p: float, scale: float) -> None:
    model = affine(1, images=12, scale=scale)
    q = p / (p - 1)
    nearest = []
    for row in range(len(model.x)):
        slopes = [model.slopes(row, rival) for rival in model.rivals(row)]
        top = [float(weight.abs().max()) for weight, _ in slopes]
        nearest.append(min(-gap / (t * float((w / t).norm(p=q))) for (w, gap), t in zip(slopes, top, strict=True)))
    result = DeepFool(p=p).run(model, model.x, model.y)
    assert bool(result.success.all())
    moved = torch.linalg.vector_norm((result.x_adv - model.x).flatten(1), p, dim=1)
    torch.testing.assert_close(moved, 1.02 * torch.tensor(nearest, dtype=torch.float64), rtol=1e-9, atol=0)


def test_the_norms_are_their_exponents() -> None:
    for norm, p in ((L2, 2.0), (Linf, math.inf)):
        assert torch.equal(DeepFool(norm=norm)(MODEL, X, Y), DeepFool(p=p)(MODEL, X, Y))


def test_l1_moves_few_entries_and_always_arrives() -> None:
    for edge in (False, True):
        model = affine(2, edge=edge)
        result = DeepFool(norm=L1).run(model, model.x, model.y)
        assert bool(result.success.all())
        assert float((result.l1 / model.nearest_in_box(L1)).max()) <= (1.0201 if not edge else 1.1)
    assert float(DeepFool(norm=L1).run(MODEL, X, Y).l0.double().mean()) < 6


@pytest.mark.parametrize("norm", [L2, Linf, L1], ids=repr)
def test_slack_saves_gradients_and_hardly_changes_perturbations(norm: Norm) -> None:
    x = images(24)
    y = MODEL(x).argmax(1)
    fewer, whole = (DeepFool(norm=norm, slack=slack).run(MODEL, x, y) for slack in (1.5, math.inf))
    assert bool(fewer.success.all())
    assert int(fewer.gradients.sum()) < 0.7 * int(whole.gradients.sum())
    sizes = [norm.size(result.x_adv - x) for result in (fewer, whole)]
    assert float((sizes[0] / sizes[1]).mean()) < 1.01
    once = DeepFool(norm=norm, steps=1)
    assert torch.equal(once(MODEL, x, y), DeepFool(norm=norm, steps=1, slack=math.inf)(MODEL, x, y))


MEASURED = """
import resource
import torch
from torch import nn
from steelman import DeepFool

torch.manual_seed(0)
parts = nn.Conv2d(3, 32, 7, 4), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.AdaptiveAvgPool2d(4), nn.Flatten()
model = nn.Sequential(*parts, nn.Linear(1024, 1000)).requires_grad_(False)
model[-1].weight *= 30
x = torch.rand(2, 3, 224, 224)
y = model(x).argmax(1)
DeepFool(steps=1)(model, x[:1], y[:1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = DeepFool(steps=10).run(model, x, y)
assert result.success.all() and int(result.gradients.max()) < 20, result
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_memory_and_work_are_bounded_at_a_thousand_classes() -> None:
    """A graph of 10 MB and a few copies of the 1.2 MB of images; one gradient per class would be 1.2 GB."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURED],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert float(run.stdout) < 150


def test_a_target_that_is_passed_by_the_overshoot_only_is_still_reached() -> None:
    """A narrow target: x + r is in it, x + 1.5 r beyond. The way on is from the highest other class."""

    def model(x: Tensor) -> Tensor:
        gap = torch.where(x <= 0.3, 0.5 * x - 0.3, 0.15 - (x - 0.55).abs())
        return torch.cat([torch.zeros_like(gap), gap], 1)

    x, y, target = torch.tensor([[0.2]], dtype=torch.float64), torch.tensor([0]), torch.tensor([1])
    result = DeepFool(overshoot=0.5).run(model, x, y, target=target)
    assert bool(result.success)
    torch.testing.assert_close(result.x_adv, torch.tensor([[0.65]], dtype=torch.float64))

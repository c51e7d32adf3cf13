"""DeepFool against the algorithm, one image at a time in numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from affine import affine, images, small_net
from steelman.attacks import DeepFool
from steelman.norms import L1, L2, Linf, Norm

MODEL = small_net()
X = images(6)
Y = MODEL(X).argmax(1)


def jacobian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = torch.tensor(x)[None].requires_grad_()
    logits = MODEL(image)[0]
    rows = [torch.autograd.grad(logit, image, retain_graph=True)[0][0].numpy() for logit in logits]
    return logits.detach().numpy(), np.stack(rows)


def reference(
    x: np.ndarray, label: int, target: int | None, norm: Norm, *, steps: int, overshoot: float, classes: int, clip: bool
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
        found, shortest = None, np.inf
        for k in order if target is None else [target]:
            f, w = logits[k] - logits[own], slopes[k] - slopes[own]
            size = np.sqrt((w**2).sum()) if norm is L2 else np.abs(w).sum()
            if abs(f) / size < shortest:
                shortest = abs(f) / size
                found = abs(f) / size**2 * w if norm is L2 else abs(f) / size * np.sign(w)
        assert found is not None
        r = bounded(x + r + found) - x
        shot = bounded(x + (1 + overshoot) * r)
        if done(shot):
            break
    return shot, took


@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("settings", [{}, {"box": None, "overshoot": 0.3}, {"classes": 3}, {"steps": 2}], ids=repr)
def test_it_is_the_algorithm(norm: Norm, targeted: bool, settings: dict) -> None:
    target = (Y + 2) % 10 if targeted else None
    y = Y.clone()
    y[0] = (y[0] + 1) % 10  # misclassified to begin with
    attack = DeepFool(norm=norm, **{"steps": 10} | settings)  # rounding grows from step to step
    result = attack.run(MODEL, X, y, target=target)
    steps = []
    for row in range(len(X)):
        wanted, took = reference(
            X[row].numpy(),
            int(y[row]),
            None if target is None else int(target[row]),
            norm,
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


@pytest.mark.parametrize("settings", [{"norm": L1}, {"steps": 0}, {"classes": 1}, {"overshoot": -0.1}], ids=repr)
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="DeepFool"):
        DeepFool(**settings)


def test_a_target_that_is_passed_by_the_overshoot_only_is_still_reached() -> None:
    """A narrow target: x + r is in it, x + 1.5 r beyond. The way on is from the highest other class."""

    def model(x: Tensor) -> Tensor:
        gap = torch.where(x <= 0.3, 0.5 * x - 0.3, 0.15 - (x - 0.55).abs())
        return torch.cat([torch.zeros_like(gap), gap], 1)

    x, y, target = torch.tensor([[0.2]], dtype=torch.float64), torch.tensor([0]), torch.tensor([1])
    result = DeepFool(overshoot=0.5).run(model, x, y, target=target)
    assert bool(result.success)
    torch.testing.assert_close(result.x_adv, torch.tensor([[0.65]], dtype=torch.float64))

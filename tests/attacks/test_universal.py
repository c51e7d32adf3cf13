"""Universal perturbations: the algorithm one image at a time, images not seen, and settings."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from affine import affine, images, small_net
from every_attack import size
from steelman import Plain, fit
from steelman.attacks import PGD, DeepFool, UniversalPerturbation
from steelman.data import Digits
from steelman.networks import MLP
from steelman.norms import L0, L1, L2, Linf, Norm
from steelman.training import Training

MODEL = small_net()
X = images(20)
Y = MODEL(X).argmax(1)


def wrong(x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return MODEL(x).argmax(1) != y


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 0.15), (L2, 0.6)], ids=repr)
def test_in_minibatches_of_one_it_is_the_algorithm(norm: Norm, eps: float) -> None:
    v, best, most = torch.zeros_like(X[0]), None, -1
    for _ in range(3):
        for row in range(len(X)):
            moved = (X[row] + v).clamp(0, 1)[None]
            if not bool(wrong(moved, Y[row : row + 1])):
                v = v + (DeepFool(steps=10)(MODEL, moved, Y[row : row + 1]) - moved)[0]
                length = float(v.abs().max() if norm is Linf else v.norm())
                v = v.clamp(-eps, eps) if norm is Linf else v * min(1, eps / length)
        fooled = int(wrong((X + v).clamp(0, 1), Y).sum())
        best, most = (v, fooled) if fooled > most else (best, most)
    attack = UniversalPerturbation(eps=eps, norm=norm, rate=1.0, epochs=3, minibatch=1)
    assert 0 < most < len(X)
    torch.testing.assert_close(attack.find(MODEL, X, Y), best, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 0.2), (L2, 1.0)], ids=repr)
def test_one_perturbation_for_all_and_for_images_not_seen(norm: Norm, eps: float) -> None:
    attack = UniversalPerturbation(eps=eps, norm=norm)
    v = attack.find(MODEL, X, Y)
    assert v.shape == X.shape[1:]
    found = attack.run(MODEL, X, Y)
    assert torch.equal(found.x_adv, attack.apply(X, v))
    torch.testing.assert_close(found.x_adv, (X + v).clamp(0, 1), rtol=0, atol=1e-9)
    others = images(30, seed=9)
    x_adv = attack.apply(others, v)
    assert bool((size(norm, x_adv, others) <= eps).all())
    torch.testing.assert_close(x_adv, (others + v).clamp(0, 1), rtol=0, atol=1e-9)


def test_it_fools_other_digits() -> None:
    """By far more than a random direction of the same length."""
    torch.manual_seed(0)
    data = Digits()
    train, test = (next(iter(data.load(part).batches([torch.arange(0, 500, 3)]))) for part in ("train", "test"))
    model = MLP(shape=train.x.shape[1:], classes=10)
    fit(model, data.load("train"), Plain(), Training(epochs=6))
    model.eval()

    def error(x: Tensor) -> float:
        with torch.no_grad():
            return float((model(x).argmax(1) != test.y).double().mean())

    for attack in (UniversalPerturbation(eps=0.2), UniversalPerturbation(eps=1.2, norm=L2)):
        v = attack.find(model, train.x, train.y)
        noise = torch.randn(test.x.shape[1:]).sign() * v.abs().mean()
        assert error(test.x) < 0.1
        assert error(attack.apply(test.x, noise)) < 0.2
        assert error(attack.apply(test.x, v)) > 0.4


def test_it_stops_at_the_rate_and_counts_images_that_are_wrong_to_begin_with() -> None:
    y = Y.clone()
    y[:10] = (y[:10] + 1) % 10
    result = UniversalPerturbation(rate=0.5).run(MODEL, X, y)
    assert int(result.gradients[:10].sum()) == 0
    assert int(result.forwards[:10].max()) == 2
    once = UniversalPerturbation(eps=0.01, epochs=1).run(MODEL, X, Y)
    thrice = UniversalPerturbation(eps=0.01, epochs=3).run(MODEL, X, Y)
    assert bool((thrice.gradients > once.gradients).all())
    assert int(thrice.success.sum()) >= int(once.success.sum())


def test_with_one_radius_per_image_each_gets_its_share() -> None:
    eps = torch.linspace(0, 0.4, 20, dtype=torch.float64)
    attack = UniversalPerturbation(eps=eps)
    v = attack.find(MODEL, X, Y)
    assert float(v.abs().max()) <= 0.4
    moved = attack(MODEL, X, Y)
    bound = eps[:, None, None, None]
    torch.testing.assert_close(moved, (X + v.clamp(-bound, bound)).clamp(0, 1), rtol=0, atol=1e-9)


def test_towards_one_class() -> None:
    model = affine(0, images=20)
    target = torch.where(model.y == 3, 4, 3)
    result = UniversalPerturbation(eps=0.3).run(model, model.x, model.y, target=target)
    assert float(result.success.double().mean()) >= 0.8


WRONG = [
    {"norm": L1},
    {"norm": L0},
    {"rate": 0.0},
    {"rate": math.nan},
    {"epochs": 0},
    {"minibatch": 0},
    {"attack": PGD()},
    {"attack": UniversalPerturbation()},
    {"attack": DeepFool(uint8=True)},
]


@pytest.mark.parametrize("settings", WRONG, ids=repr)
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="UniversalPerturbation"):
        UniversalPerturbation(**settings)


def test_the_images_are_not_cut_into_parts() -> None:
    with pytest.raises(ValueError, match="one answer for all images"):
        UniversalPerturbation().run(MODEL, X, Y, batch_size=5)


def test_wrong_input_to_find_is_refused() -> None:
    attack = UniversalPerturbation()
    for x, y, message in ((X * 255, Y, "must lie in"), (X, Y + 20, "has no class")):
        with pytest.raises(ValueError, match=message):
            attack.find(MODEL, x, y)
    v = replace(attack, eps=0.0).find(MODEL, X, Y)
    assert torch.equal(v, torch.zeros_like(X[0]))

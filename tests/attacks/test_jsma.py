"""JSMA against the algorithm, one image at a time with all pairs and the whole Jacobian."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from affine import Affine, affine, images, small_net
from steelman.attacks import JSMA
from steelman.attacks.minimal import jsma
from steelman.norms import L0, L2

MODEL = small_net()
X = images(5)
Y = MODEL(X).argmax(1)
OTHER = (Y + 1) % 10


def scores(gain: Tensor, rest: Tensor) -> Tensor:
    """Of all ordered pairs; 0 where a pair is not admissible."""
    a, b = gain[:, None] + gain[None], rest[:, None] + rest[None]
    return torch.where((a > 0) & (b > 0), a.clamp(min=0) * b.clamp(min=0), 0).fill_diagonal_(0)


@pytest.mark.parametrize("at_once", [2**22, 60, 1])
@pytest.mark.parametrize("ties", [False, True])
def test_the_best_pair_is_the_best_of_all(at_once: int, ties: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsma, "_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    without = 0
    for trial in range(74):
        shape = (3, 2 + trial % 37)
        gain = torch.randn(shape, generator=generator, dtype=torch.float64)
        rest = (trial % 5 - 2) * gain + torch.randn(shape, generator=generator, dtype=torch.float64) - trial % 4
        if ties:
            gain, rest = gain.round(), rest.round()
        barred = torch.rand(shape, generator=generator) < 0.1 * (trial % 3)
        gain, rest = gain.masked_fill(barred, -torch.inf), rest.masked_fill(barred, -torch.inf)
        pair, able = jsma.best_pair(gain, rest)
        for row in range(3):
            every = scores(gain[row], rest[row])
            assert bool(able[row]) == bool(every.max() > 0)
            without += not able[row]
            if able[row]:
                p, q = pair[row].tolist()
                assert p != q
                torch.testing.assert_close(every[p, q], every.max(), rtol=1e-12, atol=0)
    assert 0 < without < 200, "both outcomes are tested"


def test_few_pairs_are_scored() -> None:
    """Of 784 entries hardly any are needed, and slopes whose products underflow are no obstacle."""
    generator = torch.Generator().manual_seed(0)
    gain, rest = torch.randn(2, 1, 784, generator=generator)
    pair, able = jsma.best_pair(gain * 1e-30, rest * 1e-30)
    assert bool(able)
    assert torch.equal(pair, jsma.best_pair(gain, rest)[0])
    every = scores(gain[0], rest[0])
    torch.testing.assert_close(every[pair[0, 0], pair[0, 1]], every.max())


def jacobian(image: Tensor, of: str) -> tuple[Tensor, Tensor]:
    leaf = image.clone()[None].requires_grad_()
    logits = MODEL(leaf)[0]
    values = logits if of == "logits" else logits.softmax(0)
    rows = [torch.autograd.grad(value, leaf, retain_graph=True)[0].flatten() for value in values]
    return logits.detach(), torch.stack(rows)


def reference(attack: JSMA, x: Tensor, label: int, target: int | None) -> tuple[Tensor, int, int]:
    """The attack without pruning: image, steps with a pair of its own, steps that fell back on the softmax."""
    clean, image = x.flatten(), x.flatten().clone()
    signs, most = ([1, -1] if attack.both else [1 if attack.theta > 0 else -1]), int(attack.gamma * len(clean) + 1e-9)
    steps = fallen = 0
    while True:
        logits, slopes = jacobian(image.reshape(x.shape), attack.of)
        best = int(logits.argmax())
        if best != label if target is None else best == target:
            break
        aim = target if target is not None else max((k for k in range(10) if k != label), key=lambda k: logits[k])
        moves, start = [], image.tolist()
        for sign in signs:
            for entry, value in enumerate(start):
                there = min(max(value + sign * abs(attack.theta), 0.0), 1.0)
                far = sign * (value - float(clean[entry]))
                if there != value and far >= 0 and (far > 0 or int((image != clean).sum()) < most):
                    moves.append((entry, sign * (abs(there - value) if attack.reach else 1), there))

        def pick(slopes: Tensor, pairs: bool) -> list[int]:
            entries, ways = [move[0] for move in moves], torch.tensor([move[1] for move in moves], dtype=X.dtype)  # noqa: B023
            own = ways * slopes[aim][entries]  # noqa: B023 (called at once)
            others = -ways * (slopes.sum(0) - slopes[aim])[entries]  # noqa: B023
            if pairs:
                every = scores(own, others)
                flat = int(every.argmax())
                return [flat // len(entries), flat % len(entries)] if float(every.max()) > 0 else []
            return [k for k in own.argsort(descending=True).tolist()[:2] if own[k] > 0]

        chosen = pick(slopes, attack.pair and attack.of == "logits") if len(moves) > 1 else []
        if attack.of == "softmax" and len(chosen) == 2:  # then the pair score says the same
            assert sorted(pick(slopes, True)) == sorted(chosen)
        if not chosen and moves:
            fallen += attack.of == "logits"
            chosen = pick(jacobian(image.reshape(x.shape), "softmax")[1], False)
        if not chosen:
            break
        steps += 1
        fresh = [k for k in chosen if image[moves[k][0]] == clean[moves[k][0]]]
        if int((image != clean).sum()) + len(fresh) > most:
            chosen = chosen[:1]
        for k in chosen:
            image[moves[k][0]] = moves[k][2]
    return image.reshape(x.shape), steps, fallen


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reach": False},
        {"pair": False},
        {"of": "softmax"},
        {"both": True},
        {"theta": -0.3},
        {"theta": 0.4, "both": True, "reach": False},
        {"of": "softmax", "both": True, "gamma": 0.21},
    ],
    ids=repr,
)
def test_it_is_the_algorithm(settings: dict[str, Any], targeted: bool) -> None:
    target = OTHER if targeted else None
    attack = JSMA(prune=False, **settings)
    result = attack.run(MODEL, X, Y, target=target)
    for row in range(len(X)):
        image, steps, fallen = reference(attack, X[row], int(Y[row]), None if target is None else int(target[row]))
        torch.testing.assert_close(result.x_adv[row], image, rtol=0, atol=1e-12)
        passes = 2 if attack.pair and attack.of == "logits" else 1
        assert int(result.forwards[row]) in (steps + 1 + fallen, steps + 1 + fallen + 1)
        assert int(result.gradients[row]) <= passes * (steps + 1) + fallen + 1
    assert targeted or bool(result.success.any())


def test_passes_do_not_grow_with_the_classes_and_done_images_leave() -> None:
    for classes, model in ((10, MODEL), (40, small_net(classes=40))):
        y = model(X).argmax(1)
        result = JSMA(prune=False, both=True).run(model, X, y, target=(y + 1) % classes)
        assert (result.gradients <= 2 * result.forwards).all()
        assert len(set(result.forwards.tolist())) > 1
    lone = JSMA(prune=False).run(MODEL, X, (Y + 1) % 10)  # misclassified to begin with
    assert lone.forwards.tolist() == [1] * 5
    assert lone.gradients.tolist() == [0] * 5


def test_gamma_limits_the_share_of_changed_entries() -> None:
    for gamma, most in ((0.01, 1), (0.125, 3), (0.5, 12)):
        for attack in (JSMA(), JSMA(theta=0.1), JSMA(pair=False), JSMA(of="softmax", both=True)):
            result = replace(attack, gamma=gamma, prune=False).run(MODEL, X, Y, target=OTHER)
            assert int(result.l0.max()) <= most
            if most < 4:
                assert int(result.l0.max()) == most


@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3, -0.3])
def test_theta_says_where_entries_go(theta: float) -> None:
    delta = JSMA(theta=theta)(MODEL, X, Y, target=OTHER) - X
    assert float((delta * theta).min()) >= 0
    assert float(delta.abs().max()) > abs(theta) / 2
    both = JSMA(theta=theta, both=True)(MODEL, X, Y, target=OTHER) - X
    assert float(both.min()) < 0 < float(both.max())


def test_pruning_puts_entries_back_and_keeps_the_goal() -> None:
    model = uphill(0)
    target = (model.y + 1) % 10
    whole = JSMA(prune=False).run(model, model.x, model.y, target=target)
    short = JSMA().run(model, model.x, model.y, target=target)
    assert torch.equal(short.success, whole.success)
    assert bool(whole.success.all())
    kept = short.x_adv != model.x
    assert torch.equal(short.x_adv[kept], whole.x_adv[kept])
    assert float(short.l0.mean()) < 0.95 * float(whole.l0.mean())


def test_of_two_classes_nothing_more_can_be_put_back() -> None:
    """Effects add up on an affine model, and there is one rival only."""
    model = uphill(0, classes=2)
    result = JSMA().run(model, model.x, model.y)
    assert bool(result.success.all())
    for row in range(len(model.x)):
        image, clean = result.x_adv[row].flatten(), model.x[row].flatten()
        for entry in torch.where(image != clean)[0]:
            less = torch.where(torch.arange(96) == entry, clean, image)
            assert int(model(less[None]).argmax()) == int(model.y[row])


def uphill(seed: int, classes: int = 10) -> Affine:
    """96 entries, most at the ends of the box, and the surest of many images: several entries are needed."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 96, generator=generator, dtype=torch.float64)
    x = (3 * torch.rand(480, 1, 8, 12, generator=generator, dtype=torch.float64) - 1).clamp(0, 1)
    bias = -weight.sum(1) / 2
    top = (x.flatten(1) @ weight.T + bias).topk(2, dim=1).values
    x = x[(top[:, 0] - top[:, 1]).topk(24).indices]
    return Affine(weight, bias, x, (x.flatten(1) @ weight.T + bias).argmax(1))


def test_how_far_it_is_from_the_fewest_entries() -> None:
    """The figures of the card."""
    plain, best = [], []
    for seed in range(2):
        model = uphill(seed)
        fewest = model.nearest_in_box(L0)
        assert float(fewest.mean()) > 2
        for attack, ratios in ((JSMA(), plain), (JSMA(of="softmax", both=True), best)):
            result = attack.run(model, model.x, model.y)
            assert bool(result.success.all())
            ratios.append(result.l0 / fewest)
    assert float(torch.cat(plain).mean()) < 1.6
    assert float(torch.cat(best).mean()) < 1.08
    assert float(torch.cat(best).min()) >= 1


def test_saturated_images_go_on_by_the_softmax() -> None:
    """All entries raise every class, so that no pair is admissible; the target rises fastest."""
    weight = torch.tensor([[2.0], [3.0], [1.0]], dtype=torch.float64) + 0.01 * affine(0).weight[:3]
    model = Affine(weight, torch.tensor([8.0, 0.0, 0.0], dtype=torch.float64), X, torch.zeros(5, dtype=torch.int64))
    result = JSMA(gamma=1.0).run(model, torch.zeros_like(X), model.y)
    assert bool(result.success.all())
    assert bool((result.prediction == 1).all())


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (4,), (1,)], ids=repr)
def test_any_shape_of_image(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(5, *shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, x[0].numel(), generator=generator, dtype=torch.float64)
    model = Affine(weight, torch.zeros(4, dtype=torch.float64), x, (x.flatten(1) @ weight.T).argmax(1))
    for attack in (JSMA(), JSMA(both=True), JSMA(of="softmax", theta=0.2), JSMA(gamma=0.3)):
        result = attack.run(model, x, model.y)
        most = max(int(attack.gamma * x[0].numel()), 1)
        assert int(result.l0.max()) <= most
        assert result.x_adv.shape == x.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": L2}, "needs norm=L0; got L2"),
        ({"box": None}, "give it one"),
        ({"theta": 0.0}, "theta.*got 0"),
        ({"theta": float("nan")}, "theta.*got nan"),
        ({"theta": 1e-6}, "a thousandth of the box"),
        ({"gamma": 0.0}, r"gamma.*\(0, 1\]; got 0"),
        ({"gamma": 1.5}, "gamma.*got 1.5"),
    ],
    ids=repr,
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JSMA(**settings)
    with pytest.raises(ValueError, match=message):
        replace(JSMA(), **settings)

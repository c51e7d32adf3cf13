"""Convolutions with the channel last: where, that only rounding changes, and that a model is found as it was."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from digits_network import trained
from every_attack import SETTINGS, Case
from steelman import evaluate
from steelman.attacks import PGD, Attack, Square
from steelman.attacks.core import Access, Draws, Oracle
from steelman.data import Digits
from steelman.data.sample import sampled
from steelman.forward import answer_of
from steelman.layout import _laid_out, channels_last
from steelman.losses import Goal
from steelman.networks import ConvNet, LeNet, ResNet20
from steelman.types import Images

X = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
DIGITS = next(sampled(Digits().load("test"), 12).batches([torch.arange(12)]))
NETWORK = trained()
BEHIND = nn.Conv2d(8, 8, 1)


def stack(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(54, 10)
    return nn.Sequential(*layers, *more).eval()


class Own(nn.Module):
    """Written by a user, who counts."""

    calls = 0

    def __init__(self, flat: Callable[[Tensor], Tensor] = lambda z: z.flatten(1)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.flat = nn.Conv2d(3, 8, 3), nn.Linear(800, 10), flat

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.last(self.flat(self.first(x).relu()))


class Backwards(torch.autograd.Function):
    """Takes memory for the shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.clone(memory_format=torch.preserve_format)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return slope.as_strided(slope.shape, torch.empty(slope.shape).stride())


class Random(nn.Module):
    random = True

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def hooked() -> nn.Module:
    model = stack()
    model[0].register_forward_hook(lambda *_: None)
    return model


def compiled() -> nn.Module:
    model = stack()
    model[0]._compiled_call_impl = model[0]._call_impl  # as after model[0].compile()
    return model


def normed() -> nn.Module:
    model = stack()
    nn.utils.parametrizations.weight_norm(model[0])
    return model[:3].append(nn.Flatten())


def strided(z: Tensor) -> Tensor:
    return z.as_strided((len(z), 800), (800, 1))


@pytest.mark.parametrize("model", [stack(), Own(), ConvNet().eval(), ResNet20().eval(), NETWORK], ids=lambda m: type(m))
def test_answers_are_the_same_but_for_rounding_and_the_model_is_found_as_it_was(model: nn.Module) -> None:
    x = torch.rand(4, 3, 32, 32) if isinstance(model, ConvNet | ResNet20) else DIGITS.x if model is NETWORK else X
    with torch.no_grad():
        before = [(each, each.data_ptr(), each.stride(), each.clone()) for each in model.parameters()]
        plain = answer_of(model, x)
        with channels_last(model, x) as done:
            assert done
            weights = [each.weight for each in model.modules() if isinstance(each, nn.Conv2d)]
            assert all(each.stride(1) == 1 for each in weights)
            torch.testing.assert_close(answer_of(model, x), plain, rtol=1e-4, atol=1e-5)
        assert torch.equal(answer_of(model, x), plain)
    for each, pointer, stride, values in before:
        assert (each.data_ptr(), each.stride()) == (pointer, stride)
        assert torch.equal(each, values)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (stack(), X.double()),
        (stack().double(), X),
        (stack(), X[:0]),
        (lambda x: stack()(x), X),
        (nn.Sequential(nn.Flatten(), nn.Linear(432, 10)), X),
        (stack(Random()), X),
        (hooked(), X),
        (compiled(), X),
        (normed(), X),
        (Own(lambda z: z.view(len(z), -1)), X),
        (Own(strided), X),
        (Own(lambda z: BEHIND(Backwards.apply(z)).flatten(1)), X),  # pyright: ignore
        (Own(lambda z: z.flatten(1) + torch.rand(len(z), 1)), X),
    ],
    ids=[
        *("float64 images", "float64 weights", "no images", "a function", "no convolution", "random", "hooks"),
        *("compiled", "other weights", "view", "memory read", "memory read in the backward pass", "random, unsaid"),
    ],
)
def test_other_models_stay_as_they_are(model: Any, x: Tensor) -> None:
    state = torch.get_rng_state()
    with torch.no_grad(), channels_last(model, x) as done:
        assert not done
        if isinstance(model, nn.Module):
            assert all(each.is_contiguous() for each in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    with channels_last(stack(), X, False) as done:
        assert not done


def test_a_model_that_counts_does_not_count_the_check() -> None:
    model = Own().eval()
    y = torch.zeros(len(X), dtype=torch.int64)
    for fast in (False, True):
        model.calls = 0
        Square(eps=1e-4, queries=7, stop_early=False).run(model, X, y, channels_last=fast)
        assert model.calls == 7 + 1


def test_weights_that_change_meanwhile_keep_the_change() -> None:
    model = stack()
    weight = model[0].weight
    with _laid_out([weight]), torch.no_grad():
        weight.mul_(2)
        doubled = weight.clone()
    assert weight.is_contiguous()
    assert torch.equal(weight, doubled)


@pytest.mark.parametrize("case", SETTINGS, ids=repr)
def test_every_attack_finds_the_same(case: Case) -> None:
    x, y = DIGITS.x[:6], DIGITS.y[:6]
    how: dict[str, Any] = {"target": case.target(y)}
    try:
        plain, last = (
            case.attack.run(NETWORK, x, y, **how, generator=torch.arange(6), channels_last=fast)
            for fast in (False, True)
        )
    except (ValueError, RuntimeError) as error:  # made for images of another shape, say
        pytest.skip(str(error))
    assert torch.equal(last.success, plain.success)
    assert torch.equal(last.prediction, plain.prediction)


class Edge(nn.Module):
    """Its classes are equal on every image of one value."""

    def forward(self, x: Tensor) -> Tensor:
        z = nn.functional.conv2d(x, torch.ones(1, 3, 1, 1)).flatten(1)
        return torch.stack([z.mean(1), z[:, 0]], 1)


@dataclass(frozen=True)
class Lost(Attack):
    """With the channel last, images whose success rounding takes back; else clear successes."""

    access: ClassVar[Access] = "scores"

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        oracle.logits(x)
        found = torch.full_like(x, 0.5)
        if not oracle.relaid:
            found[..., 0, 0] = 0.9
        return found


def test_what_rounding_takes_back_is_crafted_again_as_the_model_is() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.edge, self.idle = Edge(), nn.Conv2d(3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.edge(x) + 0 * self.idle(x).mean((1, 2, 3))[:, None]

    y = torch.zeros(len(X), dtype=torch.int64)
    plain, last = (Lost().run(Model().eval(), X, y, channels_last=fast) for fast in (False, True))
    assert plain.success.all()
    assert last.success.all()
    assert torch.equal(last.x_adv, plain.x_adv)
    assert (last.forwards == 2).all()


def test_an_evaluation_is_the_same_with_and_without_and_its_records_say_so() -> None:
    attacks = {"Square": Square(eps=0.1, queries=50), "PGD": PGD(eps=0.1, steps=5)}
    plain, last = (
        evaluate(NETWORK, (DIGITS.x, DIGITS.y), attacks, progress=False, channels_last=fast) for fast in (False, True)
    )
    for column in ("attack", "image", "prediction", "success", "clean_prediction", "forwards", "gradients"):
        assert plain[column].tolist() == last[column].tolist()
    assert [table.record("PGD").channels_last for table in (plain, last)] == [False, True]
    assert not last.record("clean").channels_last


def test_a_lenet_is_laid_out_in_every_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Lost, "search", lambda self, oracle, x, goal, draws: seen.append(oracle.relaid) or x)
    model, x = LeNet().eval(), torch.rand(3, 1, 28, 28)
    evaluate(model, (x, model(x).argmax(1)), [Lost()], progress=False)
    assert seen == [True]

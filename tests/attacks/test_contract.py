"""What the base class does for every attack, of one attack of each kind: checks, modes, and results."""

import copy
import pickle
import re
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import steelman
from affine import Another, Same, images, small_net
from every_attack import Case, each_bounded_kind, each_kind, generator, one_of_each, size
from generated import Learnt
from steelman import losses, optimisers, schedules
from steelman.adaptive import Adaptive
from steelman.adversaries import Adversary
from steelman.attacks import Attack, VirtualAdversarial
from steelman.norms import L0, L1, L2, Linf

SEEDS = torch.arange(100, 112)


def predict(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


@each_kind
def test_results_are_what_the_returned_images_are(case: Case) -> None:
    model, x = small_net(), images(12)
    y = predict(model, x)
    y[3] = (y[3] + 2) % 10  # one image that is wrong to begin with
    target = case.target(y)
    result = case.attack.run(model, x, y, target=target, generator=generator())
    logits = model(result.x_adv).detach()
    won = logits.argmax(1) != y if target is None else logits.argmax(1) == target
    assert torch.equal(result.success, won)
    assert torch.equal(result.prediction, logits.argmax(1))
    torch.testing.assert_close(result.loss, -logits.log_softmax(1)[torch.arange(12), y])
    for norm, measured in ((L0, result.l0), (L1, result.l1), (L2, result.l2), (Linf, result.linf)):
        torch.testing.assert_close(measured.double(), size(norm, result.x_adv, x).double())
    assert torch.equal(result.x_adv, case.attack(model, x, y, target=target, generator=generator()))
    assert bool(won.any()) or (case.targeted and not case.minimal), "nothing succeeded, so nothing was tested"


def state(model: nn.Module) -> list[Any]:
    return [
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()],
        [value.clone() for value in model.state_dict().values()],
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    ]


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def lively_model() -> nn.Module:
    """Some parts in train mode, one parameter frozen, some gradients there."""
    model = small_net()
    model.normalisation.train()
    model.output.train()
    model.output.bias.requires_grad_(False)
    model.output.weight.grad = torch.ones_like(model.output.weight)
    return model


def lively(attack: Attack) -> tuple[Attack, list[nn.Module]]:
    """An attack by a generator, with that in train mode, one parameter frozen, some gradients there."""
    if not isinstance(attack, Adversary):
        return attack, []
    generator = copy.deepcopy(attack.generator).train()
    first, *_, last = generator.parameters()
    first.requires_grad_(False)
    last.grad = torch.ones_like(last)
    return attack.with_generator(generator), [generator]


class Fragile(nn.Module):
    """Raises at its n-th forward pass."""

    def __init__(self, model: nn.Module, passes: int) -> None:
        super().__init__()
        self.model, self.passes = model, passes

    def forward(self, x: Tensor) -> Tensor:
        self.passes -= 1
        if self.passes < 0:
            raise RuntimeError("out of order")
        return self.model(x)


@each_kind
@pytest.mark.parametrize("passes", [None, 0, 1, 3], ids=["works", "first", "second", "later"])
@pytest.mark.filterwarnings("ignore:the model is in train mode")
def test_nothing_is_disturbed_also_when_the_model_raises(case: Case, passes: int | None) -> None:
    model = Fragile(lively_model(), 10**9 if passes is None else passes)
    x = images(12).requires_grad_()
    x.grad = torch.ones_like(x)
    y = torch.arange(12) % 10
    target = case.target(y)
    kept_x, kept_y = x.detach().clone(), y.clone()
    attack, generators = lively(case.attack)
    networks = nn.ModuleList([model, *generators])
    before = state(networks)
    raised = False
    try:
        attack.run(model, x, y, target=target, generator=generator())
    except RuntimeError as error:
        assert "out of order" in str(error)  # noqa: PT017 (attacks of few passes do not get that far)
        raised = True
    assert raised == (model.passes < 0)
    assert_same(state(networks), before)
    assert torch.equal(x.detach(), kept_x)
    assert torch.equal(x.grad, torch.ones_like(x))
    assert x.requires_grad
    assert torch.equal(y, kept_y)
    assert target is None or torch.equal(target, case.target(y))


@each_kind
@pytest.mark.filterwarnings("ignore:the model is in train mode")
def test_modules_are_attacked_in_evaluation_mode(case: Case) -> None:
    x = images(12)
    y = predict(small_net(), x)
    quiet = case.attack(small_net(), x, y, target=case.target(y), generator=generator())
    lively = case.attack(small_net().train(), x, y, target=case.target(y), generator=generator())
    assert torch.equal(quiet, lively)


@each_kind
def test_train_mode_warns_only_where_it_matters(case: Case) -> None:
    x, y, target = images(4), torch.arange(4), case.target(torch.arange(4))
    for part in ("dropout", "normalisation"):
        model = small_net()
        getattr(model, part).train()
        with pytest.warns(UserWarning, match=r"train mode.*call model\.eval\(\)"):
            case.attack(model, x, y, target=target)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10)).double().train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case.attack(plain, x, y, target=target)
        case.attack(small_net(), x, y, target=target)


@each_kind
def test_any_callable_will_do_and_gradients_may_be_off(case: Case) -> None:
    model, x = small_net(), images(12)
    y = predict(model, x)
    go = {"target": case.target(y), "generator": SEEDS}
    expected = case.attack(model, x, y, **go)
    assert torch.equal(case.attack(lambda z: model(z), x, y, **go), expected)
    with torch.no_grad():
        assert torch.equal(case.attack(model, x, y, **go), expected)
    with torch.inference_mode():
        assert torch.equal(case.attack.run(model, x * 1, y * 1, **go).x_adv, expected)


@each_kind
def test_an_empty_batch(case: Case) -> None:
    y = torch.zeros(0, dtype=torch.int64)
    result = case.attack.run(small_net(), images(0), y, target=case.target(y))
    assert result.x_adv.shape == (0, 1, 4, 6)
    assert result.success.shape == (0,)
    assert "0 of 0" in repr(result)


def wrong(x: Tensor, y: Tensor) -> dict[str, tuple[Any, Any, str]]:
    nan, bytes_ = x.clone(), (x * 255).to(torch.uint8)
    nan[1, 0, 0, 0] = float("nan")
    return {
        "range": (x * 255, y, r"must lie in \[0, 1\].*1/255.*normalisation"),
        "negative": (x - 0.5, y, r"must lie in \[0, 1\]"),
        "bytes": (bytes_, y, r"floats.*uint8.*/ 255"),
        "NaN": (nan, y, "NaN or infinite"),
        "infinite": (x / 0, y, "NaN or infinite"),
        "one image": (x[0, 0, 0], y, "must be a batch"),
        "fewer labels": (x, y[:-1], r"y must be int64 of shape \(4,\)"),
        "labels as a list": (x, y.tolist(), "y must be a torch.Tensor; got a list. Use y = torch.as_tensor"),
        "float labels": (x, y.double(), "y must be int64"),
        "one-hot labels": (x, torch.eye(4)[y % 4].long(), r"y must be int64 of shape \(4,\)"),
        "negative label": (x, y - 1, r"classes from 0 up; got -1"),
        "label out of range": (x, y + 8, "label 11 has no class: the model returns 10 logits"),
    }


@pytest.mark.parametrize("name", wrong(images(4), torch.arange(4)))
@each_kind
def test_wrong_input_is_refused_by_its_cause(case: Case, name: str) -> None:
    x, y, message = wrong(images(4), torch.arange(4))[name]
    attack = unchecked(case.attack)
    with pytest.raises(ValueError, match=also(case, message, "generator was trained for 10 classes")):
        attack(small_net(), x, y, target=None)


UNTARGETED = "leave target out|no targeted form|only leaves the clean prediction"


def also(case: Case, message: str, earlier: str) -> str:
    """The message, or that of a learned adversary, whose generator refuses input before the model is called."""
    loss = getattr(case.attack, "loss", None)
    first = isinstance(case.attack, Adversary | VirtualAdversarial) or (loss is not None and loss.needs_reference)
    return f"{message}|{earlier}" if first else message


@each_kind
def test_wrong_targets_are_refused(case: Case) -> None:
    x, y = images(4), torch.arange(4)
    for target, message in (
        (y[:2], r"target must be int64 of shape \(4,\)"),
        (y + 8, "label 11 has no class"),
        (torch.tensor([1, 2, 2, 0]), r"target is the label itself for 1 of 4 images \(the first is image 2, class 2\)"),
    ):
        with pytest.raises(ValueError, match=also(case, message, UNTARGETED)):
            unchecked(case.attack)(small_net(), x, y, target=target)


MODELS = {
    "probabilities": (lambda net, z: net(z).softmax(1), "probabilities.*remove the softmax"),
    "NaN": (lambda net, z: net(z) * float("nan"), "NaN or infinite logits"),
    "one number": (lambda net, z: net(z)[:, :1], "at least two classes|label 3 has no class"),
    "a mapping": (lambda net, z: {"scores": net(z)}, "returns a dict with .scores.. It must return logits"),
    "summed": (lambda net, z: net(z).sum(0, keepdim=True), r"logits of shape \(4, classes\)"),
    "detached": (lambda net, z: net(z.detach()), "not differentiable, or it detaches"),
    "rounded": (lambda net, z: torch.as_tensor(net(z).detach().numpy()), "not differentiable, or it detaches"),
    "classes alone": (lambda net, z: net(z).argmax(1), "classes alone.*decisions only"),
    "NaN gradient": (lambda net, z: net((z - z).sqrt() + z), "gradients are NaN or infinite"),
}


NO_GRADIENT = ("detached", "rounded", "NaN gradient", "classes alone")


@pytest.mark.parametrize("name", MODELS)
@each_kind
def test_wrong_models_are_refused_by_their_cause(case: Case, name: str) -> None:
    bend, message = MODELS[name]
    if name in NO_GRADIENT and case.attack.access != "gradients":
        pytest.skip("needs no gradient")
    net, x = small_net(), images(4)
    y = predict(net, x)
    y = torch.where(torch.arange(4) == 3, 3, y) if name == "one number" else y
    with pytest.raises(ValueError, match=message):
        case.attack(lambda z: bend(net, z), x, y, target=case.target(y), generator=generator())


@each_bounded_kind
def test_wrong_radii_are_refused(case: Case) -> None:
    x, y = images(4), torch.arange(4)
    radii = {
        -0.1: r"needs eps >= 0; got -0\.1",
        float("nan"): "needs eps finite and >= 0; got nan",
        torch.full((3,), 0.1): r"one per image, of shape \(4,\)",
        torch.tensor([0.1, 0.1, -1.0, 0.1]): r"needs eps >= 0; got tensor",
    }
    for eps, message in radii.items():
        with pytest.raises(ValueError, match=message):
            replace(case.attack, eps=eps)(small_net(), x, y, target=case.target(y))


def unchecked(attack: Attack) -> Any:
    """The attack as a user has it, without the type checks of the tests."""
    return lambda *arguments, **more: call_plain(attack, *arguments, **more)


def call_plain(attack: Attack, *arguments: Any, **more: Any) -> Tensor:
    from jaxtyping import config

    kept = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        return attack(*arguments, **more)
    finally:
        config.update("jaxtyping_disable", kept)


@one_of_each
def test_attacks_are_values(case: Case) -> None:
    attack = case.attack
    for copied in (pickle.loads(pickle.dumps(attack)), copy.deepcopy(attack), replace(attack)):
        assert copied == attack
        assert hash(copied) == hash(attack)
        assert repr(copied) == repr(attack)
    other = replace(attack, box=(-1.0, 1.0))
    assert other != attack
    assert re.sub(r"(, )?box=\(-1\.0, 1\.0\)", "", str(other)) == str(attack)
    namespace = {
        **vars(steelman),
        **vars(optimisers),
        **vars(schedules),
        **vars(losses),
        "Adaptive": Adaptive,
        "Another": Another,
        "Same": Same,
        "Learnt": Learnt,
    }
    assert eval(repr(attack), namespace) == attack

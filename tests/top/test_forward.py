"""How a model is called: every attack on models that are written as people write them."""

import ast
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import steelman
from affine import images, small_net
from every_attack import KINDS, SETTINGS, Case, each_kind, generator
from steelman import PGD, AutoAttack, DeepDefense, HopSkipJump, Plain, Square, Training, WorstOf, evaluate, fit
from steelman.adversaries import Adversary
from steelman.attacks import Attack, Surrogate
from steelman.data import InMemory
from steelman.evaluation import Battery
from steelman.forward import Forward, answer_of, logits_of
from steelman.losses import DLR, KL, Goal, SoftMargin, cross_entropy, kl_divergence
from steelman.norms import L0
from steelman.types import Batch, check_tensor

WRAPPED = {
    "object": lambda logits: SimpleNamespace(logits=logits, hidden=None),
    "mapping": lambda logits: {"loss": None, "logits": logits},
    "tuple": lambda logits: (logits, logits.sum()),
    "list": lambda logits: [logits],
}


class Usual(nn.Module):
    """Normalises in place, flattens in a way that raises on an empty batch, and wraps its logits."""

    def __init__(self, network: nn.Module, wrap: Any) -> None:
        super().__init__()
        self.network, self.wrap = network, wrap

    def forward(self, x: Tensor) -> Any:
        x.sub_(0.25).mul_(2.0)
        return self.wrap(self.network((x.view(x.size(0), -1) * 0.5 + 0.25).view(x.shape)))


def ran(case: Case, model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = small_net(torch.float32)(x.float()).argmax(1)
    result = case.attack.run(model, x, y, target=case.target(y), generator=torch.arange(len(x)) + 7)
    with torch.no_grad():
        said = answer_of(model, result.x_adv)
    assert torch.equal(result.prediction, said.argmax(1))
    return result.x_adv


@each_kind
def test_models_as_people_write_them(case: Case) -> None:
    net = small_net(torch.float32)
    wrap = list(WRAPPED.values())[len(repr(case)) % len(WRAPPED)]
    x = images(4, torch.float32)  # few, so that at last all have left the batch
    kept = x.clone()
    expected = ran(case, lambda z: net((z - 0.25) * 2.0 * 0.5 + 0.25), x)
    assert torch.equal(ran(case, Usual(net, wrap).eval(), x), expected)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", WRAPPED)
def test_every_wrapper_in_both_modes(name: str) -> None:
    class Wrapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_net(torch.float32)

        def forward(self, x: Tensor) -> Any:
            return WRAPPED[name](self.network(x))

    model, x = Wrapping(), images(6, torch.float32)
    y = model.network(x).argmax(1)
    for training in (True, False):
        both = []
        for each in (model.train(training), model.network):
            torch.manual_seed(0)
            both.append(torch.cat([answer_of(each, x).flatten(), Plain()(each, Batch(x, y)).reshape(1)]))
        assert torch.equal(*both)
    assert evaluate(model, (x, y), [Square(eps=0.1, queries=5)], progress=False).images == 6


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"scores": 1, "boxes": 2}, "a dict with 'scores', 'boxes'"),
        (None, "a NoneType"),
        ((), "a tuple of nothing"),
        (([1.0], 2), "a tuple of list, int"),
        ("logits", "a str"),
    ],
)
def test_what_is_no_answer_is_refused_with_the_remedy(said: Any, named: str, training: bool) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return said

    x, y = images(3), torch.zeros(3, dtype=torch.int64)
    for ask in (
        lambda model: PGD()(model, x, y),
        lambda model: Plain()(model, Batch(x, y)),
        lambda model: evaluate(model, (x, y), [PGD()], progress=False),
    ):
        with pytest.raises(ValueError, match=rf"returns {named}\. It must return logits.*Wrap it in a torch"):
            ask(Odd().train(training))


@each_kind
def test_logits_of_half_precision_and_autocast_of_the_caller(case: Case) -> None:
    def half(x: Tensor) -> Tensor:
        return small(x).bfloat16()

    small, x = small_net(torch.float32), images(6, torch.float32)
    x_adv = ran(case, half, x)
    assert x_adv.dtype == torch.float32
    expected = ran(case, small, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = ran(case, small, x)
    assert torch.equal(found, expected)


OF_ONE_NETWORK = [case for case in SETTINGS if not isinstance(case.attack, Adversary | Surrogate)]


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *((case, torch.bfloat16) for case in OF_ONE_NETWORK),
        *((case, torch.float16) for case in KINDS if not isinstance(case.attack, Adversary)),
    ],
    ids=repr,
)
def test_images_and_models_of_half_precision(case: Case, kind: torch.dtype) -> None:
    net, x = small_net(torch.float32), images(8, torch.float32).to(kind)
    untargeted = case.minimal and not case.targeted
    expected = found = ran(case, net, x.float()) if untargeted else x
    models = [small_net(torch.float32).to(kind), *([net] if kind == torch.float16 else [])]
    for model in models:
        found = ran(case, model, x)
        assert found.dtype == kind
        assert bool(found.isfinite().all())
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
        if case.bounded and case.attack.norm is not L0:
            # Rounding inside a ball: never further, entry by entry, than the search in float32 went.
            eps = torch.as_tensor(case.attack.eps).double()
            assert bool((case.attack.norm.size(found.double() - x.double()) <= eps * (1 + 1e-6)).all())
        if untargeted:
            norm, y = getattr(case.attack, "norm", None) or L0, net(x.float()).argmax(1)
            sizes = []
            for judge, x_adv in ((net, expected), (model, found)):
                won = answer_of(judge, x_adv).argmax(1) != y
                sizes.append(float(norm.size(x_adv.double() - x.double())[won].median()))
            # bfloat16 rounds pixels by up to 1/512, and logits so that the boundary is elsewhere.
            assert sizes[1] == pytest.approx(sizes[0], rel=0.4 if kind == torch.bfloat16 else 0.1)


@pytest.mark.parametrize("attack", [PGD(eps=0.1), Square(eps=0.1, queries=20), HopSkipJump(steps=2, evaluations=12)])
def test_frozen_torchscript(attack: Attack) -> None:
    net = small_net(torch.float32).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(torch.jit.script(net))
    x = images(6, torch.float32)
    y = net(x).argmax(1)
    expected = attack(net, x, y, generator=torch.arange(6))
    torch.testing.assert_close(attack(frozen, x, y, generator=torch.arange(6)), expected, rtol=1e-3, atol=1e-3)
    assert evaluate(frozen, (x, y), [attack], progress=False).images == 6


# --- the call itself


def test_a_copy_only_where_the_model_writes() -> None:
    given: list[Tensor] = []

    def reads(x: Tensor) -> Tensor:
        given.append(x)
        return x.flatten(1)

    def writes(x: Tensor) -> Tensor:
        given.append(x)
        return x.mul_(2).flatten(1)

    x = images(3)
    for model, copied in ((reads, [True, False, False]), (writes, [True, True, True])):
        given.clear()
        forward = Forward(model)
        assert all(torch.equal(forward(x), model(x.clone()).flatten(1)) for _ in range(3))
        assert [each is not x for each in given[::2]] == copied
        assert torch.equal(x, images(3))


def test_a_model_that_writes_now_and_then_is_refused() -> None:
    def model(x: Tensor) -> Tensor:
        return (x.div_(255) if float(x.max()) > 1 else x).flatten(1)

    forward = Forward(model)
    forward(images(3))
    with pytest.raises(ValueError, match=r"writes into its images on some calls.*x / 255"):
        forward(images(3) * 255)


def test_images_are_cast_to_the_type_of_the_parameters() -> None:
    net, x = small_net(torch.float64), images(4)
    torch.testing.assert_close(answer_of(net, x.float()), net(x).float())
    assert answer_of(net, x.float()).dtype == torch.float32
    assert answer_of(net.float(), x).dtype == torch.float64
    assert answer_of(net.bfloat16(), x.bfloat16()).dtype == torch.float32


def test_parameters_of_two_types_say_which_cast_is_missing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.Linear(8, 3).half())
    y = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="parameters of float16 and float32, and fails on images of float32: cast"):
        PGD()(model, images(4, torch.float32), y)


def test_integers_for_an_empty_batch_of_a_model_without_scores() -> None:
    forward = Forward(lambda x: x.flatten(1).argmax(1))
    forward(images(3))
    assert forward(images(3)[:0]).dtype == torch.int64
    assert forward(images(3)[:0]).shape == (0,)


def test_training_needs_images_and_logits() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        logits_of(small_net(), images(3)[:0])
    with pytest.raises(ValueError, match="training needs logits; the model answers with int64"):
        logits_of(lambda x: x.flatten(1).argmax(1), images(3))


def test_losses_of_half_precision_are_those_of_the_same_logits_in_double() -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(256, 10, generator=draw) * 3
    b = (a + 0.1 * torch.randn(256, 10, generator=draw)).bfloat16()
    a = a.bfloat16()
    found, expected = kl_divergence(a, b), kl_divergence(a.double(), b.double())
    assert bool((found > 0).all())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)
    assert float(found.double().mean()) == pytest.approx(float(expected.mean()), rel=1e-5)
    goal = Goal(a.argmax(1))
    for loss in (SoftMargin(), DLR(), lambda z, goal: cross_entropy(z, goal.labels)):
        torch.testing.assert_close(loss(a, goal).double(), loss(a.double(), goal), rtol=1e-5, atol=1e-6)


def test_success_is_judged_in_full_precision_under_the_callers_autocast() -> None:
    net, x = small_net(torch.float32), images(12, torch.float32)
    y = net(x).argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        result = HopSkipJump(steps=3, evaluations=20).run(net, x, y, generator=generator())
        table = evaluate(net, (x, y), {"HSJ": HopSkipJump(steps=3, evaluations=20)}, progress=False)
    assert torch.equal(result.success, net(result.x_adv).argmax(1) != y)
    assert table["success"][table["attack"] == "HSJ"].mean() == 1


# --- what cannot be run is refused, or left out, before work is done


def counted(model: Any) -> tuple[Any, list[int]]:
    calls = [0]

    def count(x: Tensor) -> Tensor:
        calls[0] += 1
        return model(x)

    return count, calls


@pytest.mark.parametrize("eps", [0.5, 0.05, 0.001])
def test_autoattack_leaves_square_out_on_vectors(eps: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    x = images(32, torch.float32).flatten(1)[:, :20]
    y = model(x).argmax(1)
    with pytest.warns(UserWarning, match="AutoAttack leaves Square out.*no height and width"):
        result = AutoAttack(eps=eps, steps=5, queries=5).run(model, x, y)
    assert torch.equal(result.success, model(result.x_adv).argmax(1) != y)


@pytest.mark.parametrize(
    ("attack", "message", "calls"),
    [
        (WorstOf((PGD(), Square(eps=0.1))), "Square needs images of shape", 0),
        (WorstOf((PGD(), PGD(loss=DLR()))), "DLR needs at least 3 classes", 1),
    ],
)
def test_what_cannot_be_run_is_refused_before_its_neighbours_work(attack: Attack, message: str, calls: int) -> None:
    model, asked = counted(nn.Sequential(nn.Linear(20, 2)))
    with pytest.raises(ValueError, match=message):
        attack(model, images(4, torch.float32).flatten(1)[:, :20], torch.zeros(4, dtype=torch.int64))
    assert asked[0] == calls


def test_a_target_is_refused_by_a_loss_before_work() -> None:
    model, asked = counted(small_net())
    with pytest.raises(ValueError, match="KL has no targeted form"):
        WorstOf((PGD(), PGD(loss=KL())))(model, images(2), torch.tensor([0, 1]), target=torch.tensor([1, 0]))
    assert asked == [0]


# --- training


def test_lists_and_arrays_are_refused_with_the_remedy() -> None:
    for said in ([0, 1], np.array([0, 1])):
        with pytest.raises(ValueError, match=f"got a {type(said).__name__}. Use labels ="):
            check_tensor("labels", said)


def test_a_network_of_float64_is_fitted_on_images_of_float32() -> None:
    x = images(24, torch.float32)
    data = InMemory("made", x, torch.arange(24) % 3, ("a", "b", "c"))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).double()
    history = fit(net, data, Plain(), Training(epochs=2, batch_size=8), progress=False)
    assert history.log[-1]["epoch"] == 2
    assert net[1].weight.dtype == torch.float64


@pytest.mark.parametrize("defence", [Plain(), DeepDefense(steps=2)])
def test_a_step_under_autocast_has_losses_of_float32(defence: Any) -> None:
    net, x = small_net(torch.float32), images(8, torch.float32)
    batch = Batch(x, net(x).argmax(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert defence(net, batch).dtype == torch.float32


def test_an_evaluation_refuses_before_its_first_attack_what_its_last_cannot_take() -> None:
    model, asked = counted(nn.Sequential(nn.Linear(20, 3)))
    data = images(4, torch.float32).flatten(1)[:, :20], torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="second cannot be run on these images: Square needs images of shape"):
        evaluate(model, data, {"first": PGD(), "second": Square()}, progress=False)
    assert asked == [0]


def test_a_battery_leaves_out_what_the_images_do_not_allow() -> None:
    battery = Battery(attacks={"PGD": PGD(), "squares": Square()})
    with pytest.warns(UserWarning, match=r"left out, since they cannot be run on these images: squares \(Square needs"):
        assert list(battery.taking((20,)).attacks) == ["PGD"]
    assert battery.taking((1, 4, 5)) is battery
    with pytest.raises(ValueError, match="no attack of this battery can be run on these images: squares"):
        Battery(attacks={"squares": Square()}).taking((20,))


# --- nothing goes around it

COMPOSED = (
    *("networks/filtered.py", "networks/preprocess.py", "networks/surgery.py", "networks/black_box.py"),
    *("adaptive/gradients.py", "adaptive/nearby.py", "adaptive/adaptive.py", "loading/form.py", "loading/programs.py"),
)
"""Networks made of others, which are called through `Forward` as a whole."""
TRACED = ("adaptive/segments.py", "adaptive/bridges.py")
"""Models that are called for what their hooks see."""
OTHERS = (
    *(
        "adversaries/adversary.py",
        "experiments/run.py",
        "experiments/compare.py",
        "experiments/export.py",
        "experiments/harden.py",
        "checkpoint.py",
        "papers/toy.py",
    ),
    *("defences/generative.py", "filters/reformer.py", "filters/defense_gan.py", "attacks/composed/latent.py"),
    *("adaptive/stand_in.py", "adaptive/pupils.py"),
)
"""Generators and networks from images to images, networks that are trained there, functions that build a network, and
a study of points in the plane."""


def test_no_other_code_calls_a_model() -> None:
    source, around, known = Path(steelman.__file__).parent, [], {*COMPOSED, *TRACED, *OTHERS}
    for path in source.rglob("*.py"):
        where = path.relative_to(source).as_posix()
        for each in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = getattr(each, "func", None)
            name = getattr(called, "id", getattr(called, "attr", ""))
            if name in ("model", "network", "net", "classifier", "victim", "member") and where not in known:
                around.append(f"{where}: {ast.unparse(each)}")
    assert around == []

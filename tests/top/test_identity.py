"""Digests of models, attacks and images: whatever decides an answer changes the digest, and nothing else does."""

import functools
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from every_attack import ATTACKS
from steelman.attacks import FGSM, PGD, Attack, BestOf, DeepFool, Surrogate, WorstOf
from steelman.identity import digest, image_digests, model_parts
from steelman.networks import BlackBox, LeNet


class Net(nn.Module):
    def __init__(self, mean: float = 0.5, act: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.mean, self.act = mean, act
        self.register_buffer("scale", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layer((x.flatten(1) - self.mean) * self.scale))


def other_forward() -> nn.Module:
    class Other(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.layer((x.flatten(1) + self.mean) * self.scale))

    Other.__name__, Other.__qualname__ = Net.__name__, Net.__qualname__
    return Other()


def changed(change: Callable[[Net], object]) -> Net:
    net = Net()
    change(net)
    return net


CHANGES: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "forward": (other_forward, {"code"}),
    "plain number": (lambda: Net(0.4), {"attributes"}),
    "function": (lambda: Net(act=torch.relu), {"attributes"}),
    "lambda": (lambda: Net(act=lambda x: x.tanh()), {"attributes"}),
    "tensor attribute": (lambda: changed(lambda net: setattr(net, "shift", torch.zeros(2))), {"attributes"}),
    "list": (lambda: changed(lambda net: setattr(net, "sizes", [1, 2])), {"attributes"}),
    "buffer": (lambda: changed(lambda net: net.scale.mul_(2)), {"buffers"}),
    "weight": (lambda: changed(lambda net: net.layer.weight.data[0].add_(1e-6)), {"weights"}),
    "dtype": (lambda: Net().double(), {"weights", "buffers"}),
    "layer": (lambda: changed(lambda net: setattr(net, "layer", nn.Sequential(net.layer))), {"classes", "weights"}),
    "hook": (
        lambda: changed(lambda net: net.layer.register_forward_hook(lambda module, x, out: 2 * out)),
        {"attributes"},
    ),
    "pre-hook": (
        lambda: changed(lambda net: net.register_forward_pre_hook(lambda module, x: (x[0] / 2,))),
        {"attributes"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_decides_a_models_answers_changes_its_digests(name: str):
    make, parts = CHANGES[name]
    ours, theirs = model_parts(Net()), model_parts(make())
    differ = {part for part in ours if ours[part] != theirs[part]}
    assert parts <= differ <= parts | {"attributes", "code", "classes"}, differ


def test_mode_device_and_gradients_decide_nothing():
    net = Net().eval()
    net.layer.weight.requires_grad_(False)
    net.layer.weight.grad = torch.ones(3, 4)
    assert model_parts(net) == model_parts(Net().train())


class Plain(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


WRAPPED = {
    "compiled": torch.compile,
    "traced": lambda net: torch.jit.trace(net, torch.rand(2, 4)),
    "scripted": torch.jit.script,
    "frozen": lambda net: torch.jit.freeze(torch.jit.script(net)),
    "parallel": nn.DataParallel,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", WRAPPED)
def test_compiled_and_scripted_models_are_identified_by_their_weights(name: str):
    wrap = WRAPPED[name]
    first, again, other = (wrap(Plain(seed).eval()) for seed in (0, 0, 1))
    before = model_parts(first)
    if name != "compiled":  # which would take long
        first(torch.rand(2, 4))
    assert model_parts(first) == before == model_parts(again) != model_parts(other)


def test_a_model_has_the_same_parts_in_another_process():
    code = (
        "from steelman.identity import model_parts, digest; from steelman.networks import LeNet; "
        "from steelman.attacks import *; import torch; torch.manual_seed(0); "
        "net = LeNet(shape=(1, 28, 28)); print(model_parts(net), digest(WorstOf((PGD(), Surrogate(PGD(), net)))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    torch.manual_seed(0)
    net = LeNet(shape=(1, 28, 28))
    assert found == f"{model_parts(net)} {digest(WorstOf((PGD(), Surrogate(PGD(), net))))}\n"
    assert "weights" in found


def test_every_attack_is_itself_and_no_other():
    attacks = [case.attack for case in ATTACKS]
    found = [digest(attack) for attack in attacks]
    assert found[::4] == [digest(deepcopy(attack)) for attack in attacks[::4]]
    by_text: dict[str, set[str]] = {}
    for one, attack in zip(found, attacks, strict=True):
        by_text.setdefault(one, set()).add(repr(attack))
    assert all(len(texts) == 1 for texts in by_text.values()), "two different attacks share a digest"


def test_equal_attacks_are_equal_whether_they_share_parts_or_not():
    one = PGD(eps=0.1)
    assert digest(WorstOf((one, one))) == digest(WorstOf((PGD(eps=0.1), PGD(eps=0.1))))
    assert digest(WorstOf((one, FGSM(eps=0.1)))) != digest(WorstOf((FGSM(eps=0.1), one)))
    assert digest(BestOf((DeepFool(),))) != digest(WorstOf((DeepFool(),)))


@dataclass(frozen=True)
class Held(Attack):
    """An attack that holds anything."""

    what: object = None
    where: object = field(default=None, compare=False)

    def search(self, oracle, x, goal, draws):
        return x


def function_of(number: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * number


FACTOR = 2.0


def by_a_global(x: Tensor) -> Tensor:
    return FACTOR * x


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.ones(3)),
        (torch.zeros(3), torch.zeros(1, 3)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
        (np.zeros(3), np.ones(3)),
        (Net(0.1), Net(0.2)),
        ({"a": Net(0.1)}, {"a": Net(0.2)}),
        ([PGD(eps=0.1)], [PGD(eps=0.2)]),
        (function_of(1.0), function_of(2.0)),
        (functools.partial(torch.add, other=1), functools.partial(torch.add, other=2)),
        (Net(0.1).forward, Net(0.2).forward),
        (Slots(1), Slots(2)),
        (1, True),
        (1, 1.0),
        ("1", 1),
        (None, "None"),
        ({1, 2}, {1, 3}),
        (PGD, FGSM),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_an_attack_holds_changes_its_digest(one: object, other: object):
    assert digest(Held(one)) != digest(Held(other))
    assert digest(Held(one)) == digest(Held(one))


def test_what_is_not_compared_decides_nothing():
    assert digest(Held(1, where="here")) == digest(Held(1, where="there"))


def test_a_function_is_its_code_and_the_globals_that_it_uses(monkeypatch: pytest.MonkeyPatch):
    before = digest(by_a_global)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3.0)
    assert digest(by_a_global) != before


HELPER = """
MEAN = [0.4, 0.5]

def scale(x):
    return x * MEAN[0]
"""
ASKING = {
    "a list": "from helper import MEAN\n\ndef f(x):\n    return x - MEAN[0]\n",
    "a module": "import helper\n\ndef f(x):\n    return helper.scale(x)\n",
    "a function's list": "from helper import scale\n\ndef f(x):\n    return scale(x)\n",
    "within": "from helper import scale\n\ndef f(x):\n    return sum([scale(each) for each in x])\n",
}


@pytest.mark.parametrize("name", ASKING)
def test_globals_of_the_users_modules_change_a_functions_digest(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for number, helper in enumerate((HELPER, HELPER, HELPER.replace("0.4", "0.3"))):
        (tmp_path / f"helper_{number}.py").write_text(helper)
        (tmp_path / f"asking_{number}.py").write_text(ASKING[name])
        monkeypatch.setitem(sys.modules, "helper", __import__(f"helper_{number}"))
        for each in vars(sys.modules["helper"]).values():
            if callable(each) and hasattr(each, "__code__"):
                each.__module__ = "helper"
        function = getattr(__import__(f"asking_{number}"), "f")  # noqa: B009
        function.__module__ = "asking"
        found.append(digest(function))
    assert found[0] == found[1] != found[2]


def test_comments_and_docstrings_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    texts = (
        "def f(x):\n    return x + 1\n",
        'def f(x):\n    """A docstring."""\n    # a comment\n    return (x +\n            1)\n',
        "def f(x):\n    return x + 2\n",
    )
    found = []
    for number, text in enumerate(texts):
        (tmp_path / f"said_{number}.py").write_text(text)
        function = getattr(__import__(f"said_{number}"), "f")  # noqa: B009
        function.__module__ = "said"
        found.append(digest(function))
    assert found[0] == found[1] != found[2]


def test_paths_are_hashed_by_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("a", 0.0), ("b", 1.0)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((2,), value)}, tmp_path / name / "best.safetensors")
    before = digest(Surrogate(PGD(), "a"))
    assert (
        before == digest(Surrogate(PGD(), str(tmp_path / "a"))) == digest(Surrogate(PGD(), Path("a/best.safetensors")))
    )
    assert before != digest(Surrogate(PGD(), "b"))
    save_file({"w": torch.full((2,), 5.0)}, tmp_path / "a" / "best.safetensors")
    assert before != digest(Surrogate(PGD(), "a")), "trained anew"
    (tmp_path / "word").write_text("1")
    word = digest(Held("word"))
    (tmp_path / "word").write_text("2")
    assert word == digest(Held("word")), "a word that happens to be a file's name"


def test_an_opaque_object_equals_no_other():
    """Two sessions of a runtime, say, could be any two models."""
    one, other = (torch.nn.Module.__new__, open(__file__)), (torch.nn.Module.__new__, open(__file__))  # noqa: SIM115
    try:
        assert digest(Held(one)) == digest(Held(one))
        assert digest(Held(one)) != digest(Held(other))
        ours, theirs = (model_parts(BlackBox(each[1].read)) for each in (one, other))
        assert ours == theirs, "a model is asked what it answers besides"
    finally:
        one[1].close()
        other[1].close()


def test_images_are_identified_by_pixel_label_and_shape():
    x, y = torch.rand(5, 1, 4, 6), torch.tensor([0, 1, 2, 1, 0])
    ours = image_digests(x, y)
    assert len(set(ours.tolist())) == 5
    assert (image_digests(x, y) == ours).all()
    assert (image_digests(x[2:4], y[2:4]) == ours[2:4]).all(), "alone or in a batch"
    assert (image_digests(x, 2 - y) != ours).sum() == 3
    assert (image_digests(x.transpose(2, 3), y) != ours).all()
    assert (image_digests(x.reshape(5, 1, 6, 4), y) != ours).all()
    one = x.clone()
    one[3, 0, 2, 2] += 1e-5
    assert (image_digests(one, y) != ours).tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("levels", [255, 65535])
def test_a_division_that_rounds_otherwise_makes_no_other_image(levels: int):
    """As PyTorch on a GPU, which multiplies by a reciprocal."""
    whole = torch.arange(levels + 1, dtype=torch.float32)[None, None, None]
    y = torch.zeros(1, dtype=torch.int64)
    assert image_digests(whole / levels, y) == image_digests(whole * (1 / torch.tensor(float(levels))), y)

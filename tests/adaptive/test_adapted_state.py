"""What adapting leaves alone: honest models, models that cannot be reached, and everything about a model itself."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digits_network import trained
from steelman.adaptive import stand_in
from steelman.adaptive.bridges import Bridge
from steelman.adaptive.calls import ANSWER, IMAGES, Place, visited
from steelman.adaptive.gradients import Adapted, adapted
from steelman.attacks import FGSM
from steelman.data import Digits
from steelman.filters import JPEG, BitDepth
from steelman.forward import Forward, reject_class
from steelman.identity import digest, model_parts
from steelman.networks import MLP, Filtered, ODENet, Preprocessed, ResNet20, SmallCNN
from steelman.networks.preprocess import Normalise
from steelman.randomness import is_random

(TEST,) = Digits().load("test").batches([torch.arange(40)])
X, Y = TEST.x, TEST.y
BASE = trained()


class Levels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 3).round() / 3


class Codes(nn.Module):
    """More channels, without a graph."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :, None] > torch.arange(3)[:, None, None].to(x) / 3).to(x).flatten(1, 2)


class Sharp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 30 * x


class Noise(nn.Module):
    random = True

    def forward(self, x: Tensor) -> Tensor:
        return (x + 0.05 * torch.randn_like(x)).detach()


class Fails(nn.Module):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.net, self.left = BASE, calls

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        logits = self.net(Levels()(x))
        if not self.left:
            raise RuntimeError("enough")
        return logits


class Checked(nn.Module):
    """It writes into its images, keeps a count, and is given them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Levels(), BASE)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x.mul_(2)
        self.seen += 1
        return {"logits": self.net.forward(input=x.div_(2))}


def coded() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Codes(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()


def hooks(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    return slope


def small(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    smooth = F.avg_pool2d(torch.rand(8, 3, 40, 40), 9, 1) * 4 - 1.5
    grey = F.avg_pool2d(torch.rand(12, 1, 36, 36), 9, 1) * 4 - 1.5
    return {
        "digits": (BASE, X),
        "perceptron": (MLP(hidden=(16,), shape=(1, 8, 8), classes=10), X),
        "normalised": (Preprocessed(Normalise(shape=(1, 8, 8), mean=(0.3,), std=(0.3,)), BASE), X),
        "log softmax": (nn.Sequential(BASE, nn.LogSoftmax(1)), X),
        "tempered": (nn.Sequential(BASE, nn.Hardtanh(-1e3, 1e3)), X),
        "residual": (ResNet20(), smooth),
        "small CNN": (SmallCNN(), grey),
        "ODE": (ODENet(width=4, step=0.5), grey),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["digits", "perceptron", "normalised", "log softmax", "tempered", "residual", "small CNN", "ODE"]
)
def test_honest_models_are_left_alone(kind: str):
    model, x = small(kind)
    assert adapted(model.eval(), x, torch.zeros(len(x), dtype=torch.int64)) is None


@pytest.mark.parametrize("filter", [JPEG(75, "identity"), BitDepth(2)])
def test_a_filter_with_an_identity_for_its_gradient_gets_no_other_one(filter: nn.Module):
    model = Filtered(filter, BASE).eval()
    change = adapted(model, X, Y)
    assert change is None or torch.allclose(gradient(change, X), gradient(model, X), rtol=1e-4, atol=1e-6)


class Inference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = BASE

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Closed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nets = {"hidden": BASE}

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(self.nets["hidden"](x.detach()).argmax(1), 10).float()


@pytest.mark.parametrize(
    "model", [lambda x: BASE(x), Inference(), Closed(), Fails(1), nn.Sequential(nn.Flatten(), nn.Linear(3, 2))]
)
def test_models_out_of_reach(model):
    assert adapted(model, X, Y) is None
    assert hooks(BASE) == 0


def test_a_gradient_that_is_seldom_nan_is_cleaned():
    """At one image of 40, so that no attack could run."""

    class Rarely(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = BASE

        def forward(self, x: Tensor) -> Tensor:
            corner = x[:, :, 0, 0]
            return self.net(x) + (corner * (corner - 0.5).square()).sqrt()

    x = X.clone()
    x[:, :, 0, 0] = 0.6
    x[3, :, 0, 0] = 0.5
    model = Rarely()
    assert not gradient(model, x).isfinite().all()
    change = adapted(model, x, Y)
    assert change is not None
    assert gradient(change, x).isfinite().all()


def test_no_images():
    assert adapted(BASE, X[:0], Y[:0]) is None


@pytest.mark.parametrize("calls", range(1, 7))
def test_no_hook_remains_after_an_error(calls: int):
    model = Fails(calls)
    assert adapted(model, X, Y) is None
    assert hooks(model) == 0
    change = Adapted(Fails(1), bridges=[Bridge((IMAGES,), Place("net", 0, "input"))])
    with pytest.raises(RuntimeError, match="enough"):
        change(X.clone().requires_grad_())
    assert hooks(change) == 0
    assert torch.is_grad_enabled()


def test_the_model_is_left_as_it_was():
    model = Checked()
    model.train()
    model.net[1][1].eval()
    own = model.net.register_forward_hook(lambda module, args, output: output)
    flags, before = [each.training for each in model.modules()], copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    model.net[1][0].weight.requires_grad_(False)
    change = adapted(model, X, Y)
    assert change is not None
    assert [each.training for each in model.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hooks(model) == 1
    assert torch.equal(torch.get_rng_state(), random)
    assert [each.requires_grad for each in model.parameters()] == [False, *[True] * 5]
    given = X.clone()
    assert gradient(change.eval(), given).any()
    assert torch.equal(given, X)
    assert hooks(model) == 1
    own.remove()
    model.net[1][0].weight.requires_grad_(True)
    model.eval()


def test_it_is_a_module_like_others(monkeypatch: pytest.MonkeyPatch):
    """Of a stand-in, a head and an identity at once."""
    monkeypatch.setattr(stand_in, "STEPS", 30)
    model = nn.Sequential(coded(), Sharp(), nn.Softmax(1), Levels())
    change = adapted(model, X, Y)
    again = adapted(model, X, Y)
    assert change is not None
    assert again is not None
    assert len(change.stand_ins) == 1
    assert model_parts(change) == model_parts(again)
    assert digest(change) != digest(adapted(model, X, Y, seed=1))
    for other in (again, copy.deepcopy(change), pickle.loads(pickle.dumps(change))):
        assert torch.equal(gradient(other, X), gradient(change, X))
        assert other.assumptions == change.assumptions
    assert torch.equal(Forward(change)(X), change(X))
    with torch.no_grad():
        assert torch.equal(change(X), change(X.clone().requires_grad_()))


@pytest.mark.parametrize("made", [lambda: nn.Sequential(Levels(), copy.deepcopy(BASE)), coded])
def test_double_precision(made, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stand_in, "STEPS", 30)
    model = made().double()
    change = adapted(model, X.double(), Y)
    assert change is not None
    assert {each.dtype for each in change.parameters()} == {torch.float64}
    assert gradient(change, X.double()).any()
    assert torch.equal(change(X.double()).argmax(1), model(X.double()).argmax(1))


def test_a_random_model_remains_random_and_a_steady_one_steady():
    change = adapted(nn.Sequential(Noise(), BASE), X, Y)
    assert change is not None
    assert is_random(change)
    assert not torch.equal(change(X), change(X))
    change = adapted(nn.Sequential(Levels(), BASE), X, Y)
    assert change is not None
    assert not is_random(change)
    result = FGSM(0.1).run(change, X, Y)
    assert torch.equal(result.success, nn.Sequential(Levels(), BASE)(result.x_adv).argmax(1) != Y)


class Rejects(nn.Module):
    reject_class = 9

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(Levels(), BASE)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_a_class_that_rejects_is_kept():
    change = adapted(Rejects(), X, Y)
    assert change is not None
    assert reject_class(change) == 9


def test_the_class_is_the_models_where_the_logits_have_another_one():
    """Rounded scores tie, and the first of them is the class."""
    logits = torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.1, 0.0]])
    net = nn.Sequential(nn.Identity(), nn.Identity())
    net.register_forward_hook(lambda module, args, output: torch.ones_like(output))
    change = Adapted(net, Place("0", 0, "output"))
    found = change(logits.clone().requires_grad_())
    assert found.argmax(1).tolist() == [0, 0]
    assert torch.equal(found[:, 1:], logits[:, 1:])
    assert torch.equal(gradient(change, logits), torch.tensor([[1.0, 0, 0]] * 2))


def test_places_of_calls():
    """A layer that runs twice, a name for its input, a tuple, and whole numbers, which are not shown."""

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.pair, self.count = Doubled(), Pair(), Count()

        def forward(self, x: Tensor) -> Tensor:
            first, _ = self.pair(x=self.twice(self.twice(x)))
            return first + self.count(torch.ones(len(x), 1, dtype=torch.int64))

    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return x + 1, "no tensor"

    class Count(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    model, seen = Several(), []
    x = torch.zeros(2, 1)

    def add(place: Place, tensor: Tensor) -> Tensor:
        seen.append((place.name, place.turn, place.side, float(tensor[0])))
        return tensor + 1

    with visited(model, add):
        assert torch.equal(model(x), torch.full((2, 1), 13.0))
    ends = [("twice", 0), ("twice", 1), ("pair", 0)]
    values = [0.0, 2, 3, 8, 9, 11]
    expected = [(*end, side) for end in ends for side in ("input", "output")]
    assert seen == [(*place, value) for place, value in zip(expected, values, strict=True)]
    assert torch.equal(model(x), torch.full((2, 1), 2.0))
    assert hooks(model) == 0
    seen.clear()
    with visited(model, add, {"pair"}):
        model(x)
    assert [each[0] for each in seen] == ["pair", "pair"]


def test_a_bridge_whose_source_does_not_come_before_it_is_left_out():
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(64, 10))
    for bridge in (Bridge((ANSWER,), Place("0", 0, "output")), Bridge((IMAGES,), Place("0", 5, "output"))):
        assert torch.equal(gradient(Adapted(model, bridges=[bridge]), X), gradient(model, X))

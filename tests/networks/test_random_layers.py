"""Random layers: moments against closed forms, identities at zero strength, their place in networks, weights' names."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steelman import EOT, PGD
from steelman.networks import CNN, MLP, ConvResNet, LeNet5, ResNet20, SmallCNN, WideResNet
from steelman.networks.random_layers import (
    ActiveDropout,
    AddedNoise,
    RelativeNoise,
    StochasticPruning,
    active_dropout,
    noisy_blocks,
    self_ensemble,
    stochastic_pruning,
)
from steelman.randomness import is_random

variants = pytest.mark.parametrize("variant", ["paper", "code"])
LAYERS = [StochasticPruning(), StochasticPruning(0.5, "code"), AddedNoise(0.3), RelativeNoise(0.2), ActiveDropout(0.4)]
SURGERY: dict[str, Callable[[nn.Module], nn.Module]] = {
    "pruning": stochastic_pruning,
    "pruning of the code": lambda network: stochastic_pruning(network, 2.0, "code"),
    "self-ensemble": self_ensemble,
    "noisy blocks": noisy_blocks,
    "dropout": active_dropout,
}


class Net(nn.Module):
    """One of everything that surgery looks for; its activation runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()
        self.block = WideResNet(depth=10, width=1).get_submodule("stage1.block1")
        self.mix, self.drop, self.fc = nn.Conv2d(4, 16, 1), nn.Dropout(0.3), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.mix(self.act(self.conv1(x))))
        return self.fc(self.drop(self.block(x)).amax((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double().eval()


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def keep(a: Tensor, frac: float, variant: str) -> list[float]:
    """The probability that each activation of one image is drawn, in a plain loop."""
    total, count = sum(abs(each) for each in a.tolist()), a.numel()
    if variant == "code":
        return [1 - math.exp(-2 * frac * count * abs(each) / total) for each in a.tolist()]
    return [1 - (1 - abs(each) / total) ** (frac * count) for each in a.tolist()]


# --- stochastic pruning


@variants
@pytest.mark.parametrize("frac", [0.3, 1.0])
def test_moments_of_pruning(frac: float, variant: str) -> None:
    torch.manual_seed(2)
    a = torch.randn(12, dtype=torch.float64) * torch.logspace(-1, 0.5, 12, dtype=torch.float64)
    draws = 20_000
    kept = StochasticPruning(frac, variant)(a.expand(draws, 12))
    q = torch.tensor(keep(a, frac, variant), dtype=torch.float64)
    variance = a.square() * (1 - q) / q
    assert ((kept.mean(0) - a).abs() < 4 * (variance / draws).sqrt()).all()
    assert (((kept != 0).double().mean(0) - q).abs() < 4 * (q * (1 - q) / draws).sqrt() + 1e-9).all()
    values = kept.abs().amax(0)
    torch.testing.assert_close(values, a.abs() / q)
    assert torch.equal(((kept == 0) | torch.isclose(kept, a / q)).all(0), torch.ones(12).bool())


@variants
@pytest.mark.parametrize("through", [True, False])
def test_the_gradient_of_pruning_is_that_of_the_formula(variant: str, through: bool) -> None:
    layer, a = StochasticPruning(0.7, variant, through), images(3).flatten(1) - 0.3
    a = a.requires_grad_()
    torch.manual_seed(3)
    ours = layer(a)
    mask = ours.detach() != 0
    p = a.abs() / a.abs().sum(1, keepdim=True)
    r = 0.7 * 64
    q = 1 - (1 - p) ** r if variant == "paper" else 1 - (-2 * r * p).exp()
    wanted = mask * a / (q if through else q.detach())
    weights = torch.linspace(-1, 1, 64, dtype=torch.float64)
    torch.testing.assert_close(ours, wanted)
    found, expected = (torch.autograd.grad((value * weights).sum(), a)[0] for value in (ours, wanted))
    torch.testing.assert_close(found, expected)


@variants
def test_an_activation_that_is_hardly_ever_drawn_has_a_bounded_derivative(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With p near 0, a / q is sum|a| / r and its derivative 1/2 ((r - 1) / (2 r) of the paper's q), and 1/r of the sum.

    In single precision, a quotient of two small numbers has derivatives in the thousands there.
    """
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)  # so that all are drawn
    a = torch.tensor([[1e-9, -1e-12, 1.0, 2.0]]).requires_grad_()
    draws = 4 if variant == "paper" else 8
    value = StochasticPruning(1.0, variant)(a)[0]
    assert value[:2].tolist() == pytest.approx([3 / draws, -3 / draws])
    half = (draws - 1) / (2 * draws) if variant == "paper" else 0.5
    for place, sign in ((0, 1), (1, -1)):
        (slope,) = torch.autograd.grad(value[place], a, retain_graph=True)
        assert slope[0, place].item() == pytest.approx(half + 1 / draws, rel=1e-5)
        assert slope[0, 2].item() == pytest.approx(sign / draws, rel=1e-5)


@variants
def test_pruning_at_its_ends(variant: str) -> None:
    a = images(4) - 0.5
    torch.testing.assert_close(StochasticPruning(1e9, variant)(a), a)
    layer = StochasticPruning(1.0, variant)
    nothing = torch.zeros(3, 2, 2, requires_grad=True)
    assert torch.equal(layer(nothing), torch.zeros(3, 2, 2))
    (slope,) = torch.autograd.grad(layer(nothing).sum(), nothing)
    assert slope.isfinite().all()
    alone = torch.tensor([[0.0, -3.0, 0.0]], requires_grad=True)  # p = 1
    torch.testing.assert_close(layer(alone), alone.detach(), atol=1e-6 if variant == "paper" else 1.0, rtol=0)
    (slope,) = torch.autograd.grad(layer(alone).sum(), alone)
    assert slope.isfinite().all()
    assert layer(torch.tensor([[1.0, float("nan")]])).isnan().any()
    assert layer(torch.tensor([[1.0, float("inf")]])).isnan().any()


@variants
def test_pruning_scales_with_its_input(variant: str) -> None:
    layer, a = StochasticPruning(0.8, variant), images(4)
    torch.manual_seed(5)
    once = layer(a)
    torch.manual_seed(5)
    torch.testing.assert_close(layer(7 * a), 7 * once)


def test_mean_share_of_uniform_activations_that_is_kept() -> None:
    """Measured before: .57 of numbers that are uniform on [0, 1] at r = n, and .75 at 2 n."""
    torch.manual_seed(0)
    a = torch.rand(40, 1000)
    shares = [float((StochasticPruning(frac)(a) != 0).double().mean()) for frac in (1.0, 2.0)]
    assert shares == pytest.approx([0.57, 0.75], abs=0.01)


# --- noise


def test_noise_has_the_deviation_that_it_says() -> None:
    torch.manual_seed(0)
    x = torch.zeros(50, 400, dtype=torch.float64)
    noise = AddedNoise(0.3)(x)
    assert float(noise.std()) == pytest.approx(0.3, rel=4 / math.sqrt(2 * 20_000))
    scales = torch.tensor([1.0, 10.0], dtype=torch.float64)[:, None]
    y = scales * torch.linspace(-1, 1, 20_000, dtype=torch.float64)
    noise = RelativeNoise(0.2)(y) - y
    for row in range(2):
        assert float(noise[row].std() / y[row].std()) == pytest.approx(0.2, rel=0.03)
    row = torch.rand(1, 7).requires_grad_()
    torch.manual_seed(0)
    ours = torch.autograd.grad(RelativeNoise(0.5)(row).square().sum(), row)[0]
    torch.manual_seed(0)
    written = row + 0.5 * row.std() * torch.randn_like(row)
    torch.testing.assert_close(ours, torch.autograd.grad(written.square().sum(), row)[0])
    assert RelativeNoise(1.0)(torch.ones(3, 1)).isfinite().all()


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_every_random_layer_draws_for_each_image_and_call_in_every_mode(layer: nn.Module) -> None:
    assert type(layer).random is True
    x = images(1).expand(8, -1, -1, -1)
    for mode in (True, False):
        first, second = (layer.train(mode)(x) for _ in range(2))
        assert first.shape == x.shape
        assert not torch.equal(first, second)
        assert len({tuple(each.flatten().tolist()) for each in first}) == 8
    torch.manual_seed(3)
    once = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), once)
    assert layer(x.float()).dtype == torch.float32
    assert not layer.state_dict()


# --- surgery


@pytest.mark.parametrize("name", SURGERY)
def test_surgery_keeps_the_names_of_weights_and_is_random(name: str) -> None:
    plain, network = net(), net()
    assert SURGERY[name](network) is network
    assert list(network.state_dict()) == list(plain.state_dict())
    network.load_state_dict(plain.state_dict())
    assert is_random(network)
    assert not is_random(plain)
    assert not any(each.training for each in network.modules())
    x = images()
    answers = [each(x) for each in (network, network, copy.deepcopy(network))]
    assert len({tuple(each.flatten().tolist()) for each in answers}) == 3
    same = network(x[:1].expand(20, -1, -1, -1))
    assert (same.std(0) > 0).any()


@pytest.mark.parametrize("name", SURGERY)
def test_the_network_itself_at_zero_strength(name: str) -> None:
    none: dict[str, Callable[[nn.Module], nn.Module]] = {
        "pruning": lambda network: stochastic_pruning(network, 1e12),
        "pruning of the code": lambda network: stochastic_pruning(network, 1e12, "code"),
        "self-ensemble": lambda network: self_ensemble(network, 0.0, 0.0),
        "noisy blocks": lambda network: noisy_blocks(network, 0.0),
        "dropout": lambda network: active_dropout(network, 0.0),
    }
    x, changed = images().requires_grad_(), none[name](net())
    ours, theirs = changed(x), net()(x)
    torch.testing.assert_close(ours, theirs)
    slopes = [torch.autograd.grad(each[:, 0].sum(), x)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*slopes)


def seen(network: nn.Module, kind: Any) -> list[str]:
    """The modules that have a layer of this kind, by name."""
    return [name.rpartition(".")[0] for name, each in network.named_modules() if isinstance(each, kind)]


def test_where_layers_are() -> None:
    network = stochastic_pruning(SmallCNN())
    assert seen(network, StochasticPruning) == [f"relu{place}" for place in range(1, 7)]
    network = self_ensemble(stochastic_pruning(LeNet5(), variant="code"), 0.4, 0.2)
    assert seen(network, StochasticPruning) == seen(network, AddedNoise) == ["conv1", "conv2", "conv3"]
    assert [each.std for each in network.modules() if isinstance(each, AddedNoise)] == [0.4, 0.2, 0.2]
    blocks = [f"stage{stage}.block{block}.residual" for stage in (1, 2, 3) for block in (1, 2, 3)]
    assert seen(noisy_blocks(ResNet20()), RelativeNoise) == blocks
    assert seen(noisy_blocks(ConvResNet(), 0.1, ["block", "conv1"]), RelativeNoise) == ["conv1", "block"]


def test_noise_is_before_the_convolution_and_pruning_behind_the_activation() -> None:
    network, x = self_ensemble(stochastic_pruning(net()), 0.5, 0.25), images()
    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def keep_call(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: calls.__setitem__(name, (inputs[0], output))

    for name in ("conv1", "act.random_behind", "mix"):
        network.get_submodule(name).register_forward_hook(keep_call(name))
    network(x)
    noise = calls["conv1"][0] - x
    assert float(noise.std()) == pytest.approx(0.5, rel=0.2)
    torch.testing.assert_close(
        calls["conv1"][1], network.conv1._conv_forward(calls["conv1"][0], network.conv1.weight, network.conv1.bias)
    )
    assert (calls["act.random_behind"][0] >= 0).all()
    assert float((calls["act.random_behind"][1] == 0).double().mean()) > 0.3


def test_a_sequence_gets_its_noise_at_the_end() -> None:
    network = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), nn.ReLU())
    noisy_blocks(network, 0.0, ["0"])
    x = torch.rand(3, 4)
    assert torch.equal(network(x), network[1](network[0][1](x)))
    network[0].get_submodule("random_behind").c = 0.5
    torch.manual_seed(0)
    y = network[0](x)
    torch.manual_seed(0)
    torch.testing.assert_close(y, RelativeNoise(0.5)(network[0][1](x)))


def test_expectation_over_draws_attacks_it() -> None:
    """Also with one draw in each step."""
    network, plain, x = self_ensemble(net(), 0.1, 0.05), net(), images(4)
    y = plain(x).argmax(1)
    for attack in (PGD(eps=0.1, steps=3), EOT(PGD(eps=0.1, steps=3), samples=5)):
        x_adv = attack(network, x, y, generator=torch.Generator().manual_seed(0))
        assert float((x_adv - x).abs().amax()) == pytest.approx(0.1)
        with torch.no_grad():
            after, before = (nn.functional.cross_entropy(plain(each), y) for each in (x_adv, x))
        assert after > before + 1e-3


# --- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StochasticPruning(0.0), r"frac above 0 .*; got 0\.0"),
        (lambda: StochasticPruning(float("nan")), "frac above 0"),
        (lambda: stochastic_pruning(LeNet5(), -1.0), "frac above 0"),
        (lambda: stochastic_pruning(LeNet5(), variant="codes"), '"paper" or "code"; got \'codes\''),
        (lambda: stochastic_pruning(nn.Sequential(nn.Flatten())), "Sequential has no activation layer"),
        (lambda: stochastic_pruning(MLP(), variant="code"), "MLP has no convolution"),
        (lambda: stochastic_pruning(stochastic_pruning(LeNet5())), "a random layer behind this ReLU already"),
        (lambda: self_ensemble(MLP()), "MLP has no convolution"),
        (lambda: self_ensemble(LeNet5(), first=-0.1), r"self_ensemble needs first >= 0 .*; got -0\.1"),
        (lambda: self_ensemble(LeNet5(), others=float("inf")), "others >= 0"),
        (lambda: noisy_blocks(LeNet5()), "LeNet5 has no Residual block: name its layers"),
        (lambda: noisy_blocks(LeNet5(), layers=["conv9"]), "has no layer 'conv9'; did you mean conv"),
        (lambda: noisy_blocks(ConvResNet(), -1.0), "RelativeNoise needs c >= 0"),
        (lambda: AddedNoise(float("nan")), "AddedNoise needs std >= 0"),
        (lambda: active_dropout(LeNet5()), r"LeNet5 has no nn\.Dropout"),
        (lambda: active_dropout(CNN(variant="code"), 1.0), r"p in \[0, 1\); got 1\.0"),
    ],
)
def test_bad_input_is_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

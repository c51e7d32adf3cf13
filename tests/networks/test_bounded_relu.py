"""Bounded ReLU: its value and derivative, its place in networks, and the bound that it puts on logits."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from steelman.networks import CNN, MLP, NIN, BoundedReLU, CarliniNet, ConvNet, LeNet, MadryNet, SmallCNN, bounded_relus

NETWORKS = [MLP, LeNet, ConvNet, NIN, CarliniNet, CNN, MadryNet, SmallCNN]


@pytest.mark.parametrize("t", [1.0, 0.3])
def test_value_and_derivative(t: float) -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 0.1, t / 2, t, t + 0.1, 9.0], dtype=torch.float64, requires_grad=True)
    value = BoundedReLU(t)(x)
    assert value.tolist() == [min(max(each, 0.0), t) for each in x.tolist()]
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert slope.tolist() == [float(0 < each < t) for each in x.tolist()]


@pytest.mark.parametrize("t", [0.0, -1.0, float("inf"), float("nan")])
def test_a_bound_that_is_none_is_refused(t: float) -> None:
    with pytest.raises(ValueError, match=f"bound t above 0 .*; got {t}"):
        BoundedReLU(t)
    network = MLP()
    with pytest.raises(ValueError, match="bound t above 0"):
        bounded_relus(network, t)
    assert any(isinstance(each, nn.ReLU) for each in network.modules())


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_relu_of_every_network_is_replaced(kind) -> None:
    network = kind().eval()
    relus = sum(isinstance(each, nn.ReLU) for each in network.modules())
    names = list(network.state_dict())
    assert bounded_relus(network, 0.5) is network
    bounded = [each for each in network.modules() if isinstance(each, BoundedReLU)]
    assert len(bounded) == relus > 0
    assert not any(isinstance(each, nn.ReLU) or each.training for each in network.modules())
    assert {each.t for each in bounded} == {0.5}
    assert list(network.state_dict()) == names


class Twice(nn.Module):
    """One ReLU in two places, and one deeper down."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.first, self.other = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU()), self.act)
        self.again = self.other

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.act(self.first(x)))


def test_shared_and_nested_layers() -> None:
    torch.manual_seed(0)
    network, x = Twice(), 9 * torch.randn(5, 3)
    bounded = bounded_relus(copy.deepcopy(network), 0.7)
    assert bounded.act is bounded.other[2]
    assert bounded.other is bounded.again
    first = bounded.first(x).clamp(0, 0.7)
    assert torch.equal(bounded(x), bounded.other[0](first).clamp(0, 0.7))
    assert not torch.equal(network(x), bounded(x))
    same = nn.ReLU()
    chain = bounded_relus(nn.Sequential(same, nn.Linear(2, 2), same))
    assert chain[0] is chain[2]
    assert isinstance(chain[2], BoundedReLU)


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


@pytest.mark.parametrize("network", [Functional(), nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), nn.ReLU()])
def test_a_network_without_relu_layers_is_refused(network: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"has no nn\.ReLU to replace; functional ReLUs"):
        bounded_relus(network)


def most_change(network: nn.Sequential, size: Tensor, t: float) -> Tensor:
    """How far logits can move when pixels move by at most `size` each, layer by layer with absolute weights."""
    for layer in network:
        if isinstance(layer, nn.Linear):
            size = functional.linear(size, layer.weight.abs())
        elif isinstance(layer, nn.Conv2d):
            size = functional.conv2d(size, layer.weight.abs(), None, layer.stride, layer.padding)
        elif isinstance(layer, BoundedReLU):
            size = size.clamp(max=t)
        elif isinstance(layer, nn.MaxPool2d | nn.Flatten):
            size = layer(size)
        else:
            raise AssertionError(layer)
    return size


@pytest.mark.parametrize("t", [1.0, 0.25])
@pytest.mark.parametrize("scale", [1e-3, 10.0, 1e4])
@pytest.mark.parametrize("kind", [MLP, CNN])
@torch.no_grad()
def test_additive_stability(kind, scale: float, t: float) -> None:
    torch.manual_seed(1)
    relu = kind().double()
    for weight in relu.parameters():
        weight.mul_(3)  # so that units reach their bound
    bounded = bounded_relus(copy.deepcopy(relu), t)
    last = list(bounded.parameters())[-2]
    x = torch.rand(6, 1, 28, 28, dtype=torch.float64)
    d = scale * torch.randn_like(x)
    change = (bounded(x + d) - bounded(x)).abs()
    most = most_change(bounded, d.abs(), t)
    assert (change <= most + 1e-9).all()
    assert (most <= t * last.abs().sum(1) + 1e-9).all()  # whatever the size of d
    if scale > 100:
        plain = (relu(x + d) - relu(x)).abs().amax()
        assert plain > 10 * (t * last.abs().sum(1)).max()
        assert change.amax() > 0.01 * most.amax()  # the bound is no mere infinity


@torch.no_grad()
def test_a_relu_network_grows_without_bound() -> None:
    torch.manual_seed(1)
    network, x, d = MLP(), torch.rand(4, 1, 28, 28), torch.rand(4, 1, 28, 28)
    small, large = ((network(x + scale * d) - network(x)).abs().amax() for scale in (1e3, 1e5))
    assert large / small == pytest.approx(100, rel=0.02)
    bounded_relus(network)
    small, large = ((network(x + scale * d) - network(x)).abs().amax() for scale in (1e3, 1e5))
    assert large / small == pytest.approx(1, rel=0.02)

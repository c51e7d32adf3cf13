"""Bayesian layers: moments against drawn weights, the divergence against torch's, the plain network as a limit."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from steelman.networks import MLP, LeNet5, SmallCNN
from steelman.networks.bayesian_layers import Bayesian, BayesianConv2d, BayesianLinear, bayesian, divergence
from steelman.randomness import is_random


def layers() -> list[Bayesian]:
    torch.manual_seed(0)
    return [
        BayesianLinear(nn.Linear(5, 3), 0.1, 0.2),
        BayesianLinear(nn.Linear(5, 3, bias=False), 0.1, 0.2),
        BayesianConv2d(nn.Conv2d(2, 4, 3, padding=1, stride=2, groups=2), 0.1, 0.2),
        BayesianConv2d(nn.Conv2d(2, 3, (1, 3), padding="same", bias=False, padding_mode="circular"), 0.1, 0.2),
    ]


def image(layer: Bayesian) -> Tensor:
    shape = (1, 5) if isinstance(layer, nn.Linear) else (1, 2, 4, 5)
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.4


every_layer = pytest.mark.parametrize("place", range(4))


@every_layer
@pytest.mark.parametrize("shared", [False, True])
def test_outputs_have_the_moments_of_drawn_weights(place: int, shared: bool) -> None:
    layer = layers()[place].double()
    with torch.no_grad():
        layer.get_parameter("weight_log_std").uniform_(-3, -1)
    x, draws = image(layer), 4000
    with torch.no_grad():
        if shared:
            layer.shared, draws = True, 2000
            y = torch.cat([layer(x) for _ in range(draws)])
        else:
            y = layer(x.expand(draws, *x.shape[1:]))
        # The output is linear in the weights, so its variance is the sum of those of its terms.
        weights = layer._distributions()
        zero = [torch.zeros_like(mean) for mean, _ in weights]
        terms = []
        for part, (_, log_std) in enumerate(weights):
            for spot in range(log_std.numel()):
                unit = [each.clone() for each in zero]
                unit[part].view(-1)[spot] = log_std.exp().view(-1)[spot]
                terms.append(plain(layer, x, unit)[0])
        mean, variance = plain(layer, x, [mean for mean, _ in weights])[0], torch.stack(terms).square().sum(0)
    assert variance.min() > 1e-5
    assert ((y.mean(0) - mean).abs() < 4.5 * (variance / draws).sqrt()).all()
    assert ((y.var(0) / variance - 1).abs() < 4.5 * math.sqrt(2 / draws)).all()


def plain(layer: Bayesian, x: Tensor, weights: list[Tensor]) -> Tensor:
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, *weights)
    assert isinstance(layer, nn.Conv2d)
    return layer._conv_forward(x, weights[0], weights[1] if len(weights) > 1 else None)


def test_a_layer_on_sequences_draws_one_weight_for_each() -> None:
    layer = BayesianLinear(nn.Linear(5, 3, bias=False), 0.1, 0.2).double()
    x = torch.eye(5, dtype=torch.float64).expand(4, 5, 5)
    y = torch.cat([x, 2 * x], 1)
    drawn = layer(y)
    torch.testing.assert_close(drawn[:, 5:], 2 * drawn[:, :5])
    assert len({tuple(each.flatten().tolist()) for each in drawn}) == 4


@every_layer
def test_the_divergence_is_torchs(place: int) -> None:
    layer = layers()[place].double()
    with torch.no_grad():
        layer.get_parameter("weight_log_std").uniform_(-3, 1)
    wanted = sum(kl_divergence(Normal(m, s.exp()), Normal(0.0, 0.1)).sum() for m, s in layer._distributions())
    torch.testing.assert_close(layer.divergence(), torch.as_tensor(wanted))
    found = torch.autograd.grad(layer.divergence(), list(layer.parameters()))
    expected = torch.autograd.grad(torch.as_tensor(wanted), list(layer.parameters()))
    torch.testing.assert_close(found, expected)


def test_the_divergence_of_the_prior_itself_is_zero_and_layers_add_up() -> None:
    network = bayesian(LeNet5(), sigma_0=0.3, std=0.3).double()
    assert float(divergence(network).detach()) > 0
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, Bayesian):
                for mean, _ in layer._distributions():
                    mean.zero_()
    assert float(divergence(network).detach()) == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        for layer in (network.conv1, network.fc2):
            layer.get_parameter("weight").fill_(0.3)  # each adds 1/2
    assert float(divergence(network).detach()) == pytest.approx((150 + 840) / 2)


@pytest.mark.parametrize("std", [1e-30, 0.0])
@pytest.mark.parametrize("shared", [False, True])
def test_without_deviations_it_is_the_plain_network(std: float, shared: bool) -> None:
    torch.manual_seed(0)
    network = LeNet5().double()
    x = torch.rand(3, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    answer = network(x)
    (slope,) = torch.autograd.grad(answer[:, 0].sum(), x)
    names = list(network.state_dict())
    changed = bayesian(network, std=1e-30, shared=shared)
    if std == 0:
        with torch.no_grad():
            for name, value in changed.named_parameters():
                if name.endswith("log_std"):
                    value.fill_(-math.inf)
    torch.testing.assert_close(changed(x), answer)
    torch.testing.assert_close(torch.autograd.grad(changed(x)[:, 0].sum(), x)[0], slope)
    assert [name for name in changed.state_dict() if not name.endswith("log_std")] == names


@pytest.mark.parametrize("shared", [False, True])
def test_a_draw_for_each_image_or_for_a_call(shared: bool) -> None:
    torch.manual_seed(0)
    network = bayesian(LeNet5(), shared=shared).eval()
    x = torch.rand(1, 1, 28, 28).expand(6, -1, -1, -1)
    first, second = network(x), network(x)
    assert not torch.equal(first, second)
    if shared:
        torch.testing.assert_close(first, first[:1].expand(6, -1))
    else:
        assert len({tuple(each.tolist()) for each in first}) == 6
    assert is_random(network)
    torch.manual_seed(2)
    once = network(x)
    torch.manual_seed(2)
    assert torch.equal(network(x), once)


def test_which_layers_become_bayesian() -> None:
    def kinds(network: nn.Module) -> list[str]:
        return [name for name, each in network.named_modules() if isinstance(each, Bayesian)]

    assert kinds(bayesian(SmallCNN())) == ["conv1", "conv2", "conv3", "conv4", "fc1", "fc2", "fc3"]
    assert kinds(bayesian(SmallCNN(), "last")) == ["fc3"]
    shared = nn.Linear(3, 3)
    network = bayesian(nn.Sequential(shared, nn.ReLU(), shared).eval())
    assert network[0] is network[2]
    assert not network[0].training
    assert network[0].weight is shared.weight
    assert kinds(bayesian(network.append(nn.Linear(3, 2)))) == ["0", "3"]  # those that are stay


def test_means_and_deviations_learn() -> None:
    network = bayesian(MLP(shape=(1, 4, 4), hidden=(6,)))
    (network(torch.rand(5, 1, 4, 4)).square().sum() + divergence(network)).backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in network.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bayesian(LeNet5(), sigma_0=0.0), "sigma_0 and std above 0 .*; got 0.0 and 0.1"),
        (lambda: bayesian(LeNet5(), std=float("nan")), "sigma_0 and std above 0"),
        (lambda: bayesian(LeNet5(), "first"), '"all" or "last"; got \'first\''),
        (lambda: bayesian(nn.Sequential(nn.ReLU())), r"Sequential has no nn\.Linear or nn\.Conv2d in it"),
        (lambda: bayesian(nn.Linear(2, 2)), r"Linear has no nn\.Linear"),
        (lambda: divergence(LeNet5()), "LeNet5 has no Bayesian layer: make some by `bayesian` first"),
    ],
)
def test_bad_input_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""The mean prediction of a random network against a loop, its gradient, and the names of weights."""

import math

import pytest
import torch
from torch import Tensor, nn

from steelman import BitDepth
from steelman.networks import MLP, Filtered, Normalise, Preprocessed
from steelman.networks.mean_of_draws import MeanOfDraws
from steelman.networks.random_layers import AddedNoise


def noisy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(AddedNoise(0.5), nn.Flatten(), nn.Linear(9, 4)).double()


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("draws", [1, 3, 10])
def test_it_is_the_log_of_the_mean_softmax_with_its_gradient(draws: int) -> None:
    network, x = noisy(), images().requires_grad_()
    torch.manual_seed(1)
    wanted = torch.stack([network(x).softmax(1) for _ in range(draws)]).mean(0).log()
    torch.manual_seed(1)
    ours = MeanOfDraws(network, draws).eval()(x)
    torch.testing.assert_close(ours, wanted)
    for label in range(4):
        found, expected = (torch.autograd.grad(z[:, label].sum(), x, retain_graph=True)[0] for z in (ours, wanted))
        torch.testing.assert_close(found, expected)


def test_its_variance_falls_with_the_draws() -> None:
    x = images(1).expand(4000, -1, -1, -1)
    few, many = (MeanOfDraws(noisy(), draws).eval()(x).exp().var(0) for draws in (1, 20))
    ratios = (few / many).detach()
    assert ((ratios / 20 - 1).abs() < 4.5 * math.sqrt(2 * 2 / 4000)).all()


def test_in_train_mode_it_is_one_draw() -> None:
    network, x = noisy(), images()
    torch.manual_seed(1)
    wanted = network(x)
    torch.manual_seed(1)
    assert torch.equal(MeanOfDraws(network, 7).train()(x), wanted)
    assert "draws=7" in repr(MeanOfDraws(network, 7))


def test_a_network_that_is_not_random_answers_as_before() -> None:
    network, x = MLP(shape=(1, 3, 3), classes=4).double(), images()
    torch.testing.assert_close(MeanOfDraws(network, 3).eval()(x), network(x).log_softmax(1))


@pytest.mark.parametrize("kind", ["bare", "preprocessed", "filtered"])
def test_weights_of_the_network_alone_load(kind: str) -> None:
    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = MLP(shape=(1, 3, 3), classes=4)
        if kind == "preprocessed":
            return Preprocessed(Normalise(mean=(0.1 * seed,), std=(1.0,), shape=(1, 3, 3)), network)
        return network

    def changed(network: nn.Module) -> MeanOfDraws:
        return MeanOfDraws(Filtered(BitDepth(2), network) if kind == "filtered" else network)

    start, other = made(1), changed(made(2))
    other.load_state_dict(start.state_dict())
    again = changed(made(3))
    again.load_state_dict(other.state_dict())
    for model in (other, again):
        found = list(model.state_dict().values())
        assert all(torch.equal(a, b) for a, b in zip(found, start.state_dict().values(), strict=True))
    with pytest.raises(RuntimeError, match=r"Missing key|Unexpected key"):
        other.load_state_dict({"fc9.weight": torch.zeros(1)})


@pytest.mark.parametrize("draws", [0, -1, True])
def test_a_number_of_draws_that_is_none_is_refused(draws: int) -> None:
    with pytest.raises(ValueError, match=f"a whole number of draws from 1 up; got {draws}"):
        MeanOfDraws(noisy(), draws)

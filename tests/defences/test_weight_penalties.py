"""Orthogonal regularisation and Adv-BNN's divergence: values, gradients, and their share of the loss."""

import tomllib
from typing import Any

import pytest
import tomli_w
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from every_defence import first, images, network
from steelman import FGSM, AdvBNN, AdversarialTraining, Orthogonal, Parseval, Plain, Sum, Training, config, fit
from steelman.defences import Game, Objective
from steelman.networks import MLP
from steelman.networks.bayesian_layers import Bayesian, bayesian
from steelman.networks.mean_of_draws import MeanOfDraws
from steelman.training import SGD, MicroBatches, play


def weights(net: nn.Module) -> list[Tensor]:
    return [value for value in net.parameters() if value.ndim > 1]


# --- orthogonal


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_orthogonal_weights_cost_nothing_and_others_have_the_gradient_of_the_card(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0]).double()
    w = layer.weight
    (found,) = torch.autograd.grad(Orthogonal(weight=0.7).penalty(layer), w)
    gram = w @ w.T - torch.eye(len(w), dtype=w.dtype)
    torch.testing.assert_close(found, 0.7 * 4 * gram @ w)
    tall = max(0, shape[0] - shape[1])  # |W W^T - I|^2 is larger by this constant
    torch.testing.assert_close(Orthogonal(weight=0.7).penalty(layer), 0.7 * (gram.square().sum() - tall))
    nn.init.orthogonal_(w)
    assert float(Orthogonal().penalty(layer).detach()) < 1e-20
    with torch.no_grad():
        w *= 2.0  # every singular value is 2: (4 - 1)^2 each
    assert float(Orthogonal(weight=1.0).penalty(layer).detach()) == pytest.approx(9 * min(shape))


def test_convolutions_are_matrices_by_group_and_what_is_frozen_is_left_out() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 3)).double()
    net.append(nn.Linear(3, 3).double())
    net[3].weight.requires_grad_(False)
    wanted = torch.zeros((), dtype=torch.float64)
    for matrix in (*net[0].weight.reshape(2, 3, 18), net[4].weight):
        for i in range(3):
            for j in range(3):
                wanted = wanted + ((matrix[i] * matrix[j]).sum() - float(i == j)) ** 2
    torch.testing.assert_close(Orthogonal(weight=1.0).penalty(net), wanted)


def test_its_gradient_is_four_times_parsevals_pull() -> None:
    net, pulled = network(), network()
    Parseval(beta=0.01, rows=1.0).pull(pulled, torch.Generator())
    slopes = torch.autograd.grad(Orthogonal(weight=0.25).penalty(net), weights(net))
    for weight, slope, moved in zip(weights(net), slopes, weights(pulled), strict=True):
        torch.testing.assert_close(moved, weight - 0.01 * slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", [Plain(), AdversarialTraining(FGSM(eps=0.1))])
def test_the_penalty_is_added_to_the_objective(objective: Objective) -> None:
    net, batch = network().double(), first(12, torch.float64)
    defence = Orthogonal(objective, 0.3).setup(net, images())
    torch.testing.assert_close(defence(net, batch), objective(net, batch) + defence.penalty(net))
    moved = Orthogonal(objective, 0.0)(net, batch)
    torch.testing.assert_close(moved, objective(net, batch))


def test_training_with_it_makes_weights_orthogonal() -> None:
    net = network()
    before = float(Orthogonal(weight=1.0).penalty(net).detach())
    training = Training(epochs=30, batch_size=20, optimiser=SGD(lr=0.05))
    fit(net, images(), Orthogonal(weight=0.1), training, progress=False)
    assert float(Orthogonal(weight=1.0).penalty(net).detach()) < 0.2 * before


# --- Adv-BNN


def bayesian_network() -> nn.Module:
    return bayesian(MLP(shape=(1, 8, 8), hidden=(24,)), sigma_0=0.2)


def test_the_divergence_is_weighted_by_alpha_over_the_number_of_images() -> None:
    net, batch = bayesian_network().double(), first(12, torch.float64)
    defence = AdvBNN(Plain(), alpha=0.5).setup(net, images())
    wanted = torch.zeros((), dtype=torch.float64)
    for layer in net.modules():
        if isinstance(layer, Bayesian):
            for mean, log_std in layer._distributions():
                wanted = wanted + kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 0.2)).sum()
    assert len(images()) == 113
    torch.manual_seed(0)
    ours = defence(net, batch)
    torch.manual_seed(0)
    torch.testing.assert_close(ours, F.cross_entropy(net(batch.x), batch.y) + 0.5 / 113 * wanted)


def test_micro_batches_count_the_divergence_once() -> None:
    """With deviations of 0 nothing is random, so the update is the same."""
    moved = []
    for size in (None, 5):
        torch.manual_seed(0)
        net = bayesian(MLP(shape=(1, 8, 8), hidden=(24,)), std=1e-30).double()
        game = AdvBNN(Plain()).setup(net, images())
        play(
            game if size is None else MicroBatches(game, size),
            *(net, first(12, torch.float64), torch.optim.SGD(net.parameters(), lr=1.0)),
        )
        moved.append([value.detach() for value in net.parameters()])
    torch.testing.assert_close(moved[0], moved[1])


def test_crafting_in_train_mode_takes_one_draw_in_each_step() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.passes = bayesian_network(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return self.network(x)

    net = Counting()
    AdvBNN()(MeanOfDraws(net, 7).train(), first(6))
    assert net.passes == 11  # ten steps and the loss


def test_adv_bnn_trains() -> None:
    torch.manual_seed(0)
    net = bayesian_network()
    defence = AdvBNN(AdversarialTraining(FGSM(eps=0.05), crafting="train"))
    training = Training(epochs=15, batch_size=20, optimiser=SGD(lr=0.2))
    fit(net, images(), defence, training, progress=False)
    with torch.no_grad():
        batch = next(images().in_order(200))
        share = float((MeanOfDraws(net, 20).eval()(batch.x).argmax(1) == batch.y).double().mean())
    assert share > 0.7


# --- both


@pytest.mark.parametrize("game", [Orthogonal(Plain(), 0.2), AdvBNN(Plain(), 0.3), AdvBNN(), Orthogonal(AdvBNN())])
def test_they_survive_toml(game: Game) -> None:
    text = tomli_w.dumps({"defence": config.write(game)})
    assert config.read(Game, tomllib.loads(text)["defence"], "defence") == game


def test_in_a_sum_their_parts_are_set_up() -> None:
    net = bayesian_network()
    made = Sum((AdvBNN(Plain()), Plain())).setup(net, images())
    (inner, _) = made.objectives
    assert isinstance(inner, AdvBNN)
    assert inner.images == 113


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Orthogonal(weight=-1.0), r"Orthogonal needs weight >= 0; got -1\.0"),
        (lambda: AdvBNN(alpha=float("nan")), "AdvBNN needs alpha finite and >= 0"),
        (lambda: Orthogonal().setup(nn.Flatten(), images()), "Orthogonal takes weights .* Flatten has none that learn"),
        (lambda: AdvBNN().setup(network(), images()), "MLP has no Bayesian layer: make some by `bayesian` first"),
    ],
)
def test_bad_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Initial weights that a recipe asks for, and the scale of the images that they were made for."""

from typing import Any

import pytest
import torch
from torch import nn

from steelman.networks import MLP, NIN, AlexNet, ConvNet, LeNet, NormalInit
from steelman.networks.building import description_of, network_of


def made(init: Any, kind: str = "LeNet", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return network_of({"kind": kind, "init": init}, (1, 28, 28), 10)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat(
        [each.weight.flatten() for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    ).detach()


def test_weights_are_normal_and_biases_constant() -> None:
    network = made({"std": 0.02, "bias": 0.5})
    for layer in (each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)):
        assert (layer.bias == 0.5).all()
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=5 / layer.weight.numel() ** 0.5)
    assert float(weights(network).abs().max()) > 0.04


def test_truncated_values_lie_within_two_deviations() -> None:
    found = weights(made({"std": 0.1, "truncated": True}))
    assert float(found.abs().max()) <= 0.2
    assert float(found.std()) == pytest.approx(0.08796, rel=0.01)  # of a normal distribution cut at 2


def test_other_layers_start_as_before_and_the_seed_decides() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))
    NormalInit()(network)
    assert (network[1].weight == 1).all()
    assert torch.equal(weights(made({})), weights(made({})))
    assert not torch.equal(weights(made({})), weights(made({}, seed=1)))
    description = description_of(made({"std": 0.02}))
    assert description is not None
    assert description.network["init"] == {"std": 0.02}


def test_the_first_layer_may_have_another_deviation() -> None:
    network = made({"std": 0.05, "first": 0.01}, "ConvNet")
    stds = [float(each.weight.detach().std()) for each in network.modules() if isinstance(each, nn.Conv2d)]
    assert stds == pytest.approx([0.01, *[0.05] * 4], rel=0.1)
    with pytest.raises(ValueError, match="NormalInit needs first > 0; got 0"):
        made({"first": 0.0})


@pytest.mark.parametrize(("kind", "side"), [(MLP, 28), (LeNet, 28), (ConvNet, 28), (NIN, 28), (AlexNet, 67)])
def test_a_gain_scales_the_input(kind: Any, side: int) -> None:
    plain, scaled = (kind(shape=(1, side, side), gain=gain).eval() for gain in (1.0, 255.0))
    x = torch.rand(3, 1, side, side)
    scaled.load_state_dict(plain.state_dict())
    torch.testing.assert_close(scaled(x), plain(255 * x))


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (0.01, r"network: init needs a table, such as \{ std = 0.01 \}; got 0.01"),
        ({"sigma": 1}, "network: init has no setting 'sigma'; it takes std, first, bias, truncated"),
        (
            {"bias": float("nan")},
            r"network: init needs numbers std and bias, .*got NormalInit\(std=0.01, first=None, bias=nan",
        ),
        ({"std": 0.0}, "network: NormalInit needs std > 0; got 0"),
    ],
)
def test_what_cannot_be_is_refused(init: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(init)

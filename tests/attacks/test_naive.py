"""Attacks that do not know of the defence around a network."""

import pytest
import torch
from torch import nn

from affine import images, small_net
from every_attack import generator
from steelman.attacks import FGSM, PGD, Naive
from steelman.detectors import Confidence, Rejecting
from steelman.filters import BitDepth, Thermometer
from steelman.networks import MLP, Filtered, MeanOfDraws


def rejecting(network: nn.Module) -> Rejecting:
    model = Rejecting(network, Confidence())
    model.get_buffer("threshold").fill_(0.5)
    return model


@pytest.mark.parametrize(
    "around",
    [
        lambda net: Filtered(BitDepth(1), net),
        lambda net: rejecting(net),
        lambda net: MeanOfDraws(net, 3),
        lambda net: rejecting(Filtered(BitDepth(2), MeanOfDraws(net, 2))),
        lambda net: net,
    ],
)
def test_it_is_the_attack_on_the_network_alone(around):
    x, network = images(5), small_net()
    y = network(x).argmax(1)
    model, taped = around(network).eval(), []
    network.register_forward_hook(lambda _, inputs, output: taped.append(1) if output.requires_grad else None)
    result = Naive(PGD(0.1, steps=3)).run(model, x, y, generator=generator())
    assert len(taped) == 3, "one pass for each step, whatever stands around the network"
    plain = PGD(0.1, steps=3)(network, x, y, generator=generator())
    assert torch.equal(result.x_adv, plain)
    assert (result.gradients == 3).all()
    prediction = model(plain).argmax(1)
    assert torch.equal(result.success, (prediction != y) & (prediction != 10))


def test_a_filter_that_changes_the_shape_is_part_of_the_network():
    torch.manual_seed(0)
    model = Filtered(Thermometer(3), MLP(hidden=(8,), shape=(3, 8, 8), classes=10)).eval()
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    attack = FGSM(0.1)
    assert torch.equal(Naive(attack)(model, x, y), attack(model, x, y))

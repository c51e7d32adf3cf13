"""What the check-up sees of defences that hide gradients, without being told."""

import pytest
import torch
from torch import nn

from steelman.checkup import checkup
from steelman.data import Digits
from steelman.detectors import Confidence, Rejecting
from steelman.filters import JPEG, BitDepth, Quilting, RandomCrop, RandomResizePad, Thermometer, TotalVariation
from steelman.networks import MLP, Filtered

TRAIN, TEST = Digits().load("train"), Digits().load("test")
SHAPE = (1, 8, 8)


def network(shape: tuple[int, ...] = SHAPE) -> nn.Module:
    torch.manual_seed(0)
    return MLP(hidden=(32,), shape=shape, classes=10)


class Blind(nn.Module):
    """A filter without a graph, put before a network as a user would."""

    def __init__(self, filter: nn.Module) -> None:
        super().__init__()
        self.filter, self.network = filter, network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            seen = self.filter(x)
        return self.network(seen)


def warned(model: nn.Module) -> set[str]:
    return {each.name for each in checkup(model.eval(), TEST).findings if each.level == "warning"}


@pytest.mark.parametrize("filter", [JPEG(), TotalVariation(), BitDepth(1), BitDepth(2)])
def test_no_graph(filter: nn.Module):
    found = checkup(Blind(filter).eval(), TEST)
    assert found.access == "scores"


@pytest.mark.parametrize(
    "model",
    [
        Filtered(RandomResizePad(6, 10), network((1, 10, 10))),
        Filtered(RandomCrop(0.75), network()),
        Filtered(TotalVariation(), network()),
        Filtered(Quilting(3, 1, patches=100, shape=SHAPE).fit(TRAIN), network()),
    ],
    ids=lambda model: type(model.filter).__name__,
)
def test_random(model: nn.Module):
    assert "determinism" in warned(model)


@pytest.mark.parametrize(
    "model",
    [
        Filtered(Thermometer(4), network((4, 8, 8))),
        Filtered(JPEG(10), network()),
        Filtered(JPEG(10, "identity"), network()),
        Filtered(Quilting(3, 1, 1, patches=100, shape=SHAPE).fit(TRAIN), network()),
        Filtered(BitDepth(1), network()),
    ],
    ids=lambda model: str(model.filter)[:30],
)
def test_the_gradient_of_a_stand_in(model: nn.Module):
    assert "slopes" in warned(model)


def test_rejections():
    model = Rejecting(network(), Confidence()).fit(TRAIN, 200)
    assert any(each.name == "rejects" for each in checkup(model.eval(), TEST).findings)


def test_an_undefended_network_has_none_of_these():
    assert not warned(network()) & {"determinism", "slopes", "gradient"}

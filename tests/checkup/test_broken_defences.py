"""What the check-up sees of defences that hide gradients, without being told."""

from typing import Any

import pytest
import torch
from torch import nn

from steelman.checkup import checkup
from steelman.data import Digits
from steelman.detectors import LID, Confidence, FeatureSqueezing, Rejecting
from steelman.filters import (
    JPEG,
    BitDepth,
    DefenseGAN,
    PixelDefend,
    Quilting,
    RandomCrop,
    RandomResizePad,
    Reformer,
    Thermometer,
    TotalVariation,
)
from steelman.networks import MLP, DenoisingAutoencoder, Filtered, MLPGenerator, ODENet, PixelCNN, WideResNet
from steelman.networks.bayesian_layers import bayesian
from steelman.networks.ensemble import LogitEnsemble
from steelman.networks.mean_of_draws import MeanOfDraws
from steelman.networks.random_layers import active_dropout, noisy_blocks, self_ensemble, stochastic_pruning
from steelman.networks.surgery import denoise

TRAIN, TEST = Digits().load("train"), Digits().load("test")
SHAPE = (1, 8, 8)


def network(shape: tuple[int, ...] = SHAPE) -> nn.Module:
    torch.manual_seed(0)
    return MLP(hidden=(32,), shape=shape, classes=10)


def residual() -> nn.Module:
    torch.manual_seed(0)
    return WideResNet(depth=10, width=1, shape=SHAPE)


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))


def pixel_defend(**adaptive: Any) -> PixelDefend:
    torch.manual_seed(0)
    return PixelDefend(PixelCNN(shape=SHAPE, width=4, depth=1), 0.2, **adaptive)


def defense_gan() -> DefenseGAN:
    torch.manual_seed(0)
    return DefenseGAN(MLPGenerator(), steps=5, restarts=2)


def reformer() -> Reformer:
    torch.manual_seed(0)
    return Reformer(DenoisingAutoencoder(shape=SHAPE))


class Blind(nn.Module):
    """A filter without a graph, put before a network as a user would."""

    def __init__(self, filter: nn.Module) -> None:
        super().__init__()
        shape = filter(torch.zeros(1, *SHAPE)).shape[1:]
        self.filter, self.network = filter, network(tuple(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            seen = self.filter(x)
        return self.network(seen)


def warned(model: nn.Module) -> set[str]:
    return {each.name for each in checkup(model.eval(), TEST).findings if each.level == "warning"}


@pytest.mark.parametrize(
    "filter",
    [
        *(JPEG(), TotalVariation(), BitDepth(1), BitDepth(2), Thermometer(4), RandomResizePad(6, 10), RandomCrop(0.75)),
        *(Quilting(3, 1, patches=100, shape=SHAPE).fit(TRAIN), pixel_defend(), defense_gan(), reformer()),
    ],
    ids=lambda filter: str(filter)[:30],
)
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
        Filtered(defense_gan(), network()),
        stochastic_pruning(network()),
        self_ensemble(residual()),
        noisy_blocks(residual()),
        active_dropout(with_dropout()),
        bayesian(network()),
        bayesian(network(), layers="last"),
        MeanOfDraws(stochastic_pruning(network()), 10),
        LogitEnsemble([noisy_blocks(residual()), noisy_blocks(residual())]),
    ],
    ids=lambda model: type(getattr(model, "filter", model)).__name__,
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
        Filtered(pixel_defend(), network()),
        Filtered(pixel_defend(likely=3.0), network()),
        Filtered(pixel_defend(by_value=True), network()),
        Filtered(defense_gan(), network()),
        Filtered(TotalVariation(), network()),
        Filtered(Quilting(3, 1, patches=100, shape=SHAPE).fit(TRAIN), network()),
    ],
    ids=lambda model: str(model.filter)[:30],
)
def test_the_gradient_of_a_stand_in(model: nn.Module):
    assert "slopes" in warned(model)


@pytest.mark.parametrize("detector", [Confidence(), FeatureSqueezing(), LID(10, 60, shape=SHAPE)], ids=str)
def test_rejections(detector: Any):
    classifier, batch = network(), next(TRAIN.in_order(len(TRAIN)))
    optimiser = torch.optim.Adam(classifier.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(classifier(batch.x), batch.y).backward()
        optimiser.step()
    model = Rejecting(classifier, detector).fit(TRAIN, 400)
    assert any(each.name == "rejects" for each in checkup(model.eval(), TEST).findings)


@pytest.mark.parametrize(
    "model",
    [
        network(),
        residual(),
        denoise(residual(), ["stage1"], shape=SHAPE),
        *(ODENet(variant=kind, width=4, shape=SHAPE) for kind in ("cnn", "ode", "tisode")),
        Filtered(reformer(), network()),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_hides_nothing_has_none_of_these(model: nn.Module):
    assert not warned(model) & {"determinism", "slopes", "gradient"}

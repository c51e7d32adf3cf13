"""Residual networks against their papers, written out with weights by name."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, leaky_relu, linear

from steelman.networks import BoundedReLU, PreActResNet18, ResNet20, WideResNet, bounded_relus

SHAPE = (3, 16, 16)


@pytest.mark.parametrize(
    ("kind", "options", "count"),
    [
        (ResNet20, {}, 269_722),
        (PreActResNet18, {}, 11_171_146),
        (WideResNet, {}, 36_479_194),
        (WideResNet, {"depth": 34}, 46_160_474),
        # the 1x1 convolutions of the shortcuts are what zeros save
        (WideResNet, {"shortcut": "pad"}, 36_479_194 - 16 * 160 - 160 * 320 - 320 * 640),
    ],
)
def test_parameter_counts(kind, options: dict, count: int) -> None:
    with torch.device("meta"):
        assert sum(each.numel() for each in kind(**options).parameters()) == count


class Weights:
    """A network's own weights and statistics by name, made random, and its layers as plain functions."""

    def __init__(self, network: nn.Module) -> None:
        torch.manual_seed(0)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for each in (layer.weight, layer.bias, layer.running_mean):
                    nn.init.uniform_(each, -0.5, 1)  # pyright: ignore
                nn.init.uniform_(layer.running_var, 0.5, 2)  # pyright: ignore
        self.all = network.double().eval().state_dict()

    def bn(self, name: str, x: Tensor) -> Tensor:
        weight, bias, mean, variance = (
            self.all[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return weight * (x - mean) / (variance + 1e-5).sqrt() + bias

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.all[f"{name}.weight"]
        return conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def fc(self, x: Tensor) -> Tensor:
        return linear(x.mean((2, 3)), self.all["fc.weight"], self.all["fc.bias"])


def padded(x: Tensor, channels: int) -> Tensor:
    zeros = torch.zeros(len(x), (channels - x.shape[1]) // 2, *x.shape[2:], dtype=x.dtype)
    return torch.cat([zeros, x, zeros], 1)


@torch.no_grad()
def test_resnet20_layer_by_layer() -> None:
    network = ResNet20(shape=SHAPE, classes=7)
    w, x = Weights(network), torch.rand(2, *SHAPE, dtype=torch.float64)
    maps = w.bn("bn1", w.conv("conv1", x)).relu()
    for stage in (1, 2, 3):
        for block in (1, 2, 3):
            name = f"stage{stage}.block{block}.residual.body"
            new = stage > 1 and block == 1
            body = w.bn(f"{name}.bn1", w.conv(f"{name}.conv1", maps, 2 if new else 1)).relu()
            body = w.bn(f"{name}.bn2", w.conv(f"{name}.conv2", body))
            maps = (body + (padded(maps[:, :, ::2, ::2], body.shape[1]) if new else maps)).relu()
    assert maps.shape == (2, 64, 4, 4)
    torch.testing.assert_close(network(x), w.fc(maps))


@torch.no_grad()
def test_preact_resnet18_layer_by_layer() -> None:
    network = PreActResNet18(shape=SHAPE, classes=7)
    w, x = Weights(network), torch.rand(2, *SHAPE, dtype=torch.float64)
    maps = w.conv("conv1", x)
    for stage in (1, 2, 3, 4):
        for block in (1, 2):
            name = f"stage{stage}.block{block}"
            if stage > 1 and block == 1:
                active = w.bn(f"{name}.bn1", maps).relu()
                name = f"{name}.residual"
                shortcut, stride = w.conv(f"{name}.shortcut", active, 2), 2
            else:
                active, shortcut, stride = w.bn(f"{name}.body.bn1", maps).relu(), maps, 1
            body = w.bn(f"{name}.body.bn2", w.conv(f"{name}.body.conv1", active, stride)).relu()
            maps = w.conv(f"{name}.body.conv2", body) + shortcut
    assert maps.shape == (2, 512, 2, 2)
    assert (maps < 0).any()  # no ReLU before the average
    torch.testing.assert_close(network(x), w.fc(maps))


@pytest.mark.parametrize(("shortcut", "slope"), [("convolution", 0.0), ("pad", 0.1)])
@torch.no_grad()
def test_wide_resnet_layer_by_layer(shortcut, slope: float) -> None:
    network = WideResNet(shape=SHAPE, classes=7, depth=16, width=2, slope=slope, shortcut=shortcut)
    w, x = Weights(network), torch.rand(2, *SHAPE, dtype=torch.float64)
    maps = w.conv("conv1", x)
    for stage in (1, 2, 3):
        for block in (1, 2):
            name, stride = f"stage{stage}.block{block}", 2 if stage > 1 and block == 1 else 1
            shared = block == 1 and (shortcut == "convolution" or stage == 1)
            active = leaky_relu(w.bn(f"{name}.bn1" if shared else f"{name}.body.bn1", maps), slope)
            name = f"{name}.residual" if shared else name
            across = active if shared else maps
            if block == 1 and shortcut == "convolution":
                across = w.conv(f"{name}.shortcut", across, stride)
            elif block == 1:
                across = padded(avg_pool2d(across, stride), 32 * 2 ** (stage - 1))
            body = leaky_relu(w.bn(f"{name}.body.bn2", w.conv(f"{name}.body.conv1", active, stride)), slope)
            maps = w.conv(f"{name}.body.conv2", body) + across
    assert maps.shape == (2, 128, 4, 4)
    torch.testing.assert_close(network(x), w.fc(leaky_relu(w.bn("bn", maps), slope)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 10)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ResNet20, {}),
        (WideResNet, {"depth": 10, "width": 1, "shortcut": "pad"}),
        (WideResNet, {"depth": 10, "width": 1}),
    ],
)
def test_other_shapes_train_and_take_bounded_relus(kind, options: dict, shape) -> None:
    network = bounded_relus(kind(shape=shape, classes=3, **options))
    assert sum(isinstance(each, BoundedReLU) for each in network.modules()) == (19 if kind is ResNet20 else 7)
    network(torch.rand(4, *shape)).square().sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in network.parameters())


def test_starting_weights() -> None:
    torch.manual_seed(0)
    wide = WideResNet(depth=10, width=4)
    first = wide.get_parameter("stage3.block1.residual.body.conv1.weight")
    assert first.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert not wide.get_parameter("fc.bias").any()
    assert ResNet20().get_parameter("fc.weight").std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "depth of 10, 16, 22, 28 .*; got 20 and 10"),
        ({"depth": 4}, "got 4 and 10"),
        ({"width": 0}, "got 28 and 0"),
        ({"shortcut": "projection"}, "shortcut is .*; got 'projection'"),
        ({"shape": (3, 3, 8)}, "WideResNet needs images of at least 4x4"),
    ],
)
def test_wide_resnet_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WideResNet(**options)

"""PGN's generator and ConvPool-CNN, layer by layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.adversaries.generators.pgn_generator import PGNGenerator
from steelman.networks import ConvPoolCNN, build


@pytest.mark.parametrize(("shape", "seed"), [((3, 32, 32), 64), ((1, 28, 28), 49), ((2, 4, 8), 2)])
def test_the_generator_layer_by_layer(shape: tuple[int, int, int], seed: int):
    """As it is printed: the label at every pixel, gradient and image beside the map, and each image on its own."""
    torch.manual_seed(2)
    net = PGNGenerator(shape, 4, width=5, hidden=6, grad_scale=0.3).double()
    own = dict(net.named_parameters())
    x, slope = torch.rand(2, 3, *shape, dtype=torch.float64) - 0.5
    labels = torch.tensor([2, 0, 2])
    for image, gradient, label, answer in zip(x, slope, labels, net(x, slope, labels), strict=True):
        y = torch.eye(4, dtype=torch.float64)[label]
        inner = leaky(own["fc1.weight"] @ y + own["fc1.bias"])
        inner = leaky(own["fc2.weight"] @ torch.cat([inner, y]) + own["fc2.bias"])
        assert len(inner) == 5 * seed
        inner = inner.view(5, shape[1] // 4, shape[2] // 4)
        for layer in ("up1", "up2"):
            inner = torch.cat([inner, y[:, None, None].expand(-1, *inner.shape[1:])])
            inner = leaky(doubled(inner, own[f"{layer}.weight"], own[f"{layer}.bias"]))
        inner = torch.cat([inner, 0.3 * gradient, image])
        inner = leaky(F.conv2d(inner[None], own["conv.weight"], own["conv.bias"], padding=1))
        torch.testing.assert_close(answer, F.conv2d(inner, own["out.weight"], own["out.bias"], padding=1)[0])


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A transposed convolution of stride 2: zeros between the pixels, and a convolution with the turned kernel."""
    spread = torch.zeros(len(x), 2 * x.shape[1] + 2, 2 * x.shape[2] + 2, dtype=x.dtype)
    spread[:, 1:-1:2, 1:-1:2] = x
    return F.conv2d(spread[None], weight.flip(2, 3).transpose(0, 1), bias)[0]


def test_parameters_of_the_paper():
    first = 10 * 1024 + 1024
    second = (1024 + 10) * (8 * 8 * 128) + 8 * 8 * 128
    up = 9 * (128 + 10) * 128 + 128
    last = 9 * (128 + 3 + 3) * 128 + 128 + 9 * 128 * 3 + 3
    assert sum(each.numel() for each in PGNGenerator((3, 32, 32), 10).parameters()) == first + second + 2 * up + last
    pairs = ((3, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 10))
    assert sum(9 * a * b + b for a, b in pairs) == 2_334_730
    assert sum(each.numel() for each in ConvPoolCNN().parameters()) == 2_334_730


@pytest.mark.parametrize("net", [PGNGenerator((1, 8, 8), 10), ConvPoolCNN(shape=(1, 8, 8))])
def test_weights_begin_as_hes(net: nn.Module):
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            weight = layer.weight.detach()
            fan = {2: weight.shape[1], 4: 9 * weight.shape[1]}[weight.ndim]
            assert float(weight.std()) == pytest.approx((2 / fan) ** 0.5, rel=0.1), name
            assert not layer.bias.any()


def test_the_classifier_is_the_one_of_the_code():
    torch.manual_seed(1)
    net, x = ConvPoolCNN(shape=(3, 8, 12), classes=7, width=2).double(), torch.rand(2, 3, 8, 12, dtype=torch.float64)
    inner, own = x, dict(net.named_parameters())
    for place in range(1, 8):
        inner = leaky(F.conv2d(inner, own[f"conv{place}.weight"], own[f"conv{place}.bias"], padding=1))
        if place in (2, 4, 6):
            inner = F.avg_pool2d(inner, 2)
    torch.testing.assert_close(net(x), inner.mean((2, 3)))
    assert net(x).min() > -0.2 * inner.abs().max()
    assert isinstance(build("ConvPoolCNN", shape=(3, 32, 32), classes=100, width=8).relu7, nn.LeakyReLU)

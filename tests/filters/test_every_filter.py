"""Every filter, in one table: its shape and range, its gradient, its randomness, one image alone and in a batch."""

import pytest
import torch
from torch import nn

from steelman.data import Digits
from steelman.filters import (
    JPEG,
    BitDepth,
    DefenseGAN,
    MedianSmoothing,
    PixelDefend,
    Quilting,
    RandomCrop,
    RandomResizePad,
    Reformer,
    Thermometer,
    TotalVariation,
)
from steelman.filters.trained import TrainedFilter
from steelman.networks import DenoisingAutoencoder, MLPGenerator, PixelCNN
from steelman.networks.building import _KINDS
from steelman.networks.filtered import Filtered, filtered_shape, with_gradient
from steelman.randomness import is_random

SHAPE = (1, 8, 8)
DATA = Digits().load("train")
FILTERS = [
    BitDepth(2),
    BitDepth(3, "guo"),
    BitDepth(3, "truncate"),
    MedianSmoothing(2),
    Thermometer(4),
    Thermometer(5, "one_hot"),
    JPEG(50),
    JPEG(30, "identity"),
    RandomResizePad(6, 10, 0.5),
    RandomResizePad(8, 9, mode="bilinear", flip=True),
    RandomCrop(0.75),
    RandomCrop(0.5, "nearest"),
    TotalVariation(),
    TotalVariation(0.8, 0.1, isotropic=True),
    Quilting(3, 1, patches=200, shape=SHAPE).fit(DATA),
    Quilting(4, 0, 1, patches=200, cut=False, shape=SHAPE).fit(DATA),
    PixelDefend(PixelCNN(shape=SHAPE, width=2, depth=1)),
    PixelDefend(PixelCNN(shape=SHAPE, width=2, depth=1), 0.3, likely=3.0, by_value=True),
    DefenseGAN(MLPGenerator(), steps=3, restarts=2),
    Reformer(DenoisingAutoencoder(shape=SHAPE)),
]
ALWAYS = [filter for filter in FILTERS if not is_random(filter)]
ONE_CHOICE = "neighbours=1,"
every = pytest.mark.parametrize("filter", FILTERS, ids=lambda each: str(each)[:60])


def images() -> torch.Tensor:
    return next(DATA.in_order(6)).x


def seeded(filter: nn.Module, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return filter(x)


def test_all_are_here():
    own = {name for name, kind in _KINDS.items() if kind.__module__.startswith("steelman.filters")}
    assert own == {type(filter).__name__ for filter in FILTERS}


@every
def test_shape_and_range(filter: nn.Module):
    x = images()
    y = seeded(filter, x)
    chance = torch.get_rng_state()
    assert y.shape == (6, *filtered_shape(filter, SHAPE))
    assert torch.equal(torch.get_rng_state(), chance)
    assert y.dtype == x.dtype
    assert y.isfinite().all()
    assert y.min() >= -1e-6
    assert y.max() <= 1 + 1e-6
    assert filter(x.double()).dtype == torch.float64
    assert torch.equal(x, images())


@every
def test_a_gradient_reaches_the_images_once_filtered(filter: nn.Module):
    x = images().clamp(0.05, 0.95).requires_grad_()
    seeded(Filtered(filter, nn.Flatten()), x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad.flatten(1).abs().amax(1) > 0).all()
    assert (with_gradient(filter) is filter) == getattr(filter, "differentiable", False)


@every
def test_it_is_random_if_it_says_so(filter: nn.Module):
    x = images()
    first, second = seeded(filter, x), seeded(filter, x, 1)
    assert torch.equal(first, seeded(filter, x))
    assert torch.equal(first, second) == (not is_random(filter) or ONE_CHOICE in str(filter))
    if is_random(filter) and ONE_CHOICE not in str(filter):
        same = seeded(filter, x[:1].expand(8, -1, -1, -1))
        assert not torch.equal(same[1:], same[:-1])  # drawn for each image


@pytest.mark.parametrize("filter", ALWAYS, ids=lambda each: str(each)[:60])
def test_an_image_is_the_same_alone(filter: nn.Module):
    x = images()
    whole = filter(x)
    for row in range(len(x)):
        torch.testing.assert_close(filter(x[row : row + 1])[0], whole[row])


@pytest.mark.parametrize("filter", [each for each in FILTERS if isinstance(each, TrainedFilter)], ids=str)
def test_autocast_changes_nothing_but_rounding(filter: TrainedFilter):
    wanted = seeded(filter, images())
    with torch.autocast("cpu", torch.bfloat16):
        found = seeded(filter, images())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02 if isinstance(filter, Reformer) else 0)


@every
def test_no_images(filter: nn.Module):
    assert filter(images()[:0]).shape == (0, *filtered_shape(filter, SHAPE))

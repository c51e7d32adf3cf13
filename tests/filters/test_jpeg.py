"""JPEG: against Pillow, and its stand-in against Pillow's result."""

import pytest
import torch

from steelman.filters import JPEG
from steelman.networks.filtered import Filtered


def smooth(channels: int, side: int = 32, count: int = 20) -> torch.Tensor:
    torch.manual_seed(0)
    coarse = torch.rand(count, channels, 6, 6)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    return (fine + 0.05 * torch.randn(count, channels, side, side)).clamp(0, 1)


@pytest.mark.parametrize(("channels", "near", "mean"), [(1, 0.85, 0.5), (3, 0.7, 1.2)])
def test_in_torch_it_is_nearly_pillows(channels: int, near: float, mean: float):
    x, filter = smooth(channels), JPEG()
    apart = 255 * (filter.in_torch(x) - filter(x)).abs()
    assert float((apart <= 1.01).float().mean()) > near
    assert float(apart.mean()) < mean
    assert float(apart.mean()) < 0.25 * float((255 * (filter(x) - x).abs()).mean())


@pytest.mark.parametrize("quality", [10, 40, 75, 95])
def test_less_quality_is_further_away_for_both(quality: int):
    x = smooth(3)
    ours, pillows = (
        [float((each(x) - x).square().mean()) for each in (JPEG(q).in_torch, JPEG(q))] for q in (quality, quality + 5)
    )
    assert ours[0] > pillows[0]
    assert ours[1] > pillows[1]
    assert ours[0] == pytest.approx(ours[1], rel=0.1)


def test_it_is_bytes_and_almost_nothing_at_full_quality():
    x, best = smooth(1), JPEG(100)
    assert 255 * float((best(x) - x).abs().mean()) < 1
    values = 255 * JPEG(50)(x)
    assert torch.allclose(values, values.round(), atol=1e-3)
    grey = torch.full((1, 3, 16, 16), 100 / 255)
    assert 255 * float((JPEG()(grey) - grey).abs().max()) <= 1.01
    assert 255 * float((JPEG().in_torch(grey) - grey).abs().max()) <= 1.01


@pytest.mark.parametrize("side", [7, 16, 21])
@pytest.mark.parametrize("channels", [1, 3])
def test_sides_that_are_no_multiples_of_8(side: int, channels: int):
    x = smooth(channels, side, 4)
    assert JPEG()(x).shape == JPEG().in_torch(x).shape == x.shape


def test_the_gradient_is_the_projection_on_what_survives_or_the_identity():
    """Of grey images without clipping: rounding passed straight through leaves the cosine transform and its inverse."""
    x = (0.3 + 0.4 * smooth(1, 16, 2)).requires_grad_()
    weight = torch.randn(2, 1, 16, 16)
    (through,) = torch.autograd.grad((weight * Filtered(JPEG(), torch.nn.Identity())(x)).sum(), x)
    torch.testing.assert_close(through, weight, atol=1e-5, rtol=0)
    colour = (0.3 + 0.4 * smooth(3, 16, 2)).requires_grad_()
    weight = torch.randn(2, 3, 16, 16)
    (dct,) = torch.autograd.grad((weight * Filtered(JPEG(), torch.nn.Identity())(colour)).sum(), colour)
    assert not torch.allclose(dct, weight)
    torch.testing.assert_close(dct.sum((2, 3)), weight.sum((2, 3)), atol=1e-2, rtol=0)  # a constant survives
    model = Filtered(JPEG(backward="identity"), torch.nn.Identity())
    (same,) = torch.autograd.grad((weight * model(colour)).sum(), colour)
    assert torch.equal(same, weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JPEG(0), "from 1 to 100; got 0"),
        (lambda: JPEG()(torch.rand(1, 2, 8, 8)), "1 or 3 channels"),
        (lambda: JPEG()(2 * torch.ones(1, 1, 8, 8)), "these reach from 2 to 2"),
    ],
)
def test_bad_settings_and_images(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()

"""Feature squeezing's filters against numpy and scipy."""

from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import nn

from steelman.filters import BitDepth, MedianSmoothing


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_bit_depth_is_the_nearest_level(bits: int) -> None:
    x = torch.rand(4, 3, 9, 7, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    found = BitDepth(bits)(x)
    levels = torch.arange(2**bits, dtype=torch.float64) / (2**bits - 1)
    nearest = levels[(x[..., None] - levels).abs().argmin(-1)]
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-15)
    assert len(found.unique()) == 2**bits or bits == 8
    torch.testing.assert_close(BitDepth(bits)(found), found, rtol=0, atol=1e-15)
    most = 2**bits - 1
    assert np.array_equal(BitDepth(bits)(x).numpy(), np.rint(x.numpy() * most) / most)
    assert torch.equal(BitDepth(bits)(torch.tensor([[0.0, 1.0]])), torch.tensor([[0.0, 1.0]]))


def test_the_codes_of_others_have_other_levels() -> None:
    """Against numpy's bytes, and the counts, mean and largest value of the levels."""
    grey = np.arange(256, dtype=np.uint8)
    for dtype in (torch.float32, torch.float64):
        x = torch.from_numpy(grey).to(dtype) / 255
        found = BitDepth(3, "truncate")(x)
        torch.testing.assert_close(found, torch.from_numpy((grey >> 5) << 5).to(dtype) / 255)
        assert (len(found.unique()), float(found.max())) == (8, pytest.approx(224 / 255))
        assert float((found - x).mean()) == pytest.approx(-15.5 / 255, abs=1e-6)
        assert len(BitDepth(3, "guo")(x).unique()) == 9
        assert len(BitDepth(3)(x).unique()) == 8
    x = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert np.array_equal(BitDepth(3, "guo")(x).numpy(), np.rint(x.numpy() * 8) / 8)


def test_one_bit_is_a_threshold() -> None:
    assert BitDepth(1)(torch.tensor([[0.0, 0.49, 0.51, 1.0]])).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 3, 7, 10), (1, 2, 3, 1), (1, 1, 1, 2)])
def test_the_median_is_scipys(size: int, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    x = (x * 6).round() / 6  # with ties
    wanted = scipy.ndimage.median_filter(x.numpy(), size=(1, 1, size, size), mode="reflect")
    assert np.array_equal(MedianSmoothing(size)(x).numpy(), wanted)


def test_the_median_removes_single_pixels() -> None:
    x = torch.full((1, 1, 9, 9), 0.5)
    x[0, 0, 4, 4] = 1
    assert torch.equal(MedianSmoothing(3)(x), torch.full_like(x, 0.5))


def test_their_own_gradients() -> None:
    x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (flat,) = torch.autograd.grad(BitDepth(3)(x).sum(), x)
    assert not bool(flat.any())
    (gradient,) = torch.autograd.grad(MedianSmoothing(2)(x).sum(), x)
    assert float(gradient.sum()) == x.numel()
    assert torch.equal(gradient, gradient.round())


def test_they_say_what_they_are() -> None:
    assert str(nn.Sequential(BitDepth(3), MedianSmoothing())) == (
        "Sequential(\n  (0): BitDepth(bits=3)\n  (1): MedianSmoothing(size=2)\n)"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BitDepth(0), "whole number from 1 to 16; got 0"),
        (lambda: BitDepth(17), "got 17"),
        (lambda: BitDepth(9, "truncate"), "from 1 to 8; got 9"),
        (lambda: MedianSmoothing(0), "whole number of pixels from 1; got 0"),
        (lambda: MedianSmoothing()(torch.rand(3, 8, 8)), r"got \(3, 8, 8\)"),
    ],
)
def test_what_cannot_be_squeezed_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

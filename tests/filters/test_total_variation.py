"""Total-variation minimisation: closed forms, a peer, and a convex solver's optimality."""

import pytest
import torch
from torch import Tensor

from steelman.filters import TotalVariation

ALL = torch.ones(1, 1, 12, 16, dtype=torch.bool)


def energy(z: Tensor, x: Tensor, kept: Tensor, weight: float, isotropic: bool) -> Tensor:
    down, right = torch.zeros_like(z), torch.zeros_like(z)
    down[..., :-1, :] = z[..., 1:, :] - z[..., :-1, :]
    right[..., :-1] = z[..., 1:] - z[..., :-1]
    size = (down.square() + right.square()).sqrt() if isotropic else down.abs() + right.abs()
    return 0.5 * (kept * (z - x).square()).sum() + weight * size.sum()


def test_two_plateaus_move_towards_each_other():
    """Of widths n: a + weight / n and b - weight / n in every row."""
    x = torch.full((1, 1, 12, 16), 0.2, dtype=torch.float64)
    x[..., 8:] = 0.7
    z = TotalVariation(keep=1.0, weight=0.4, steps=3000)(x)
    expected = torch.where(x < 0.5, 0.2 + 0.4 / 8, 0.7 - 0.4 / 8).double()
    torch.testing.assert_close(z, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("isotropic", [False, True])
def test_a_constant_stays_and_no_weight_changes_nothing(isotropic: bool):
    x = torch.full((2, 3, 9, 9), 0.4, dtype=torch.float64)
    torch.testing.assert_close(TotalVariation(keep=0.3, steps=4000, isotropic=isotropic)(x), x, atol=1e-3, rtol=0)
    x = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(TotalVariation(keep=1.0, weight=0.0, isotropic=isotropic)(x), x, atol=1e-6, rtol=0)


def test_a_large_weight_gives_the_mean_of_what_is_kept():
    torch.manual_seed(0)
    x = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    kept = torch.rand(1, 1, 6, 6) < 0.5
    z = TotalVariation(weight=50.0, steps=20_000).minimised(x, kept)
    torch.testing.assert_close(z, torch.full_like(z, float(x[kept].mean())), atol=1e-3, rtol=0)


@pytest.mark.parametrize("isotropic", [False, True])
def test_nothing_near_the_minimum_is_lower(isotropic: bool):
    torch.manual_seed(0)
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    kept = torch.rand(1, 1, 8, 8) < 0.6
    z = TotalVariation(weight=0.1, steps=3000, isotropic=isotropic).minimised(x, kept)
    least = energy(z, x, kept, 0.1, isotropic)
    for size in (1e-4, 1e-3, 1e-2, 0.1):
        for _ in range(20):
            assert energy(z + size * torch.randn_like(z), x, kept, 0.1, isotropic) >= least - 1e-7
    assert energy(z + 1e-3 * (x - z), x, kept, 0.1, isotropic) >= least - 1e-7


def test_it_agrees_with_scikit_image():
    restoration = pytest.importorskip("skimage.restoration")
    torch.manual_seed(0)
    x = torch.rand(1, 1, 20, 20, dtype=torch.float64)
    theirs = restoration.denoise_tv_chambolle(x[0, 0].numpy(), weight=0.1, eps=1e-9, max_num_iter=5000)
    ours = TotalVariation(keep=1.0, weight=0.1, steps=3000, isotropic=True)(x)
    assert float((ours[0, 0] - torch.from_numpy(theirs)).abs().max()) < 2e-3


def test_pixels_are_dropped_anew_for_all_channels_together():
    x = torch.rand(1, 3, 10, 10).expand(500, -1, -1, -1)
    torch.manual_seed(0)
    y = TotalVariation(keep=0.7, weight=1e-4, steps=30)(x)
    assert not torch.equal(y[0], y[1])
    kept = ((y - x).abs() < 2e-3).all(1)
    assert abs(float(kept.float().mean()) - 0.7) < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TotalVariation(keep=0.0), "keep above 0"),
        (lambda: TotalVariation(weight=-1.0), "weight >= 0"),
        (lambda: TotalVariation(steps=0), "steps >= 1"),
        (lambda: TotalVariation()(torch.rand(3, 4)), "needs images"),
        (lambda: TotalVariation().minimised(torch.rand(1, 1, 12, 16), ~ALL), "keeps no pixel"),
    ],
)
def test_bad_settings_and_images(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()

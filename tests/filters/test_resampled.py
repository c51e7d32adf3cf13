"""Random windows: resized and padded, cropped and enlarged."""

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.nn import functional as F

from steelman.filters import RandomCrop, RandomResizePad

MODES = ["nearest", "bilinear"]
X = torch.rand(3, 2, 14, 14, dtype=torch.float64)


def resized(x: Tensor, side: int, mode: str) -> Tensor:
    return F.interpolate(x, size=(side, side), mode=mode, **({} if mode == "nearest" else {"align_corners": False}))


@pytest.mark.parametrize("mode", MODES)
def test_each_image_is_resized_and_stands_somewhere_in_the_colour(mode: str):
    """Against torch's own, at every place; each of them occurs."""
    filter = RandomResizePad(14, 16, pad=0.5, mode=mode)  # pyright: ignore[reportArgumentType]
    windows = {
        (side, a, b): F.pad(resized(X, side, mode), (b, 16 - side - b, a, 16 - side - a), value=0.5)
        for side in (14, 15, 16)
        for a in range(17 - side)
        for b in range(17 - side)
    }
    assert len(windows) == 14
    seen = set()
    for seed in range(60):
        torch.manual_seed(seed)
        for row, image in enumerate(filter(X)):
            fits = [key for key, each in windows.items() if torch.allclose(each[row], image, atol=1e-5)]
            assert len(fits) == 1
            seen.add(fits[0])
    assert seen == windows.keys()


def test_all_windows_of_a_side_are_drawn_alike():
    filter = RandomResizePad(3, 4, mode="nearest", shape=(1, 3, 3))
    torch.manual_seed(0)
    x = torch.ones(6000, 1, 3, 3)
    places = filter(x)[:, 0]
    whole = places.flatten(1).sum(1) == 16
    at = places.flatten(1).argmax(1)[~whole]
    counts = [int(whole.sum()), *(int((at == place).sum()) for place in (0, 1, 4, 5))]
    assert sum(counts) == 6000
    assert chisquare(counts, [3000, 750, 750, 750, 750]).pvalue > 1e-3


def test_the_number_of_windows_is_the_papers():
    sides = range(299, 331)
    assert sum((331 - side + 1) ** 2 for side in sides) == 12_528


@pytest.mark.parametrize("mode", MODES)
def test_a_constant_image_stays_constant_and_the_gradient_counts_copies(mode: str):
    filter = RandomResizePad(20, 20, pad=0.25, mode=mode)  # pyright: ignore[reportArgumentType]
    x = torch.full((2, 1, 10, 10), 0.75, dtype=torch.float64, requires_grad=True)
    y = filter(x)
    torch.testing.assert_close(y, torch.full_like(y, 0.75))
    y.sum().backward()
    assert x.grad is not None
    assert float(x.grad.sum()) == pytest.approx(2 * 400)
    if mode == "nearest":
        assert (x.grad == 4).all()


def test_flipping_mirrors_half_of_the_images():
    filter = RandomResizePad(14, 14, flip=True)
    torch.manual_seed(0)
    x = X[:1].expand(200, -1, -1, -1)
    y = filter(x)
    same, mirrored = ((y == each).flatten(1).all(1) for each in (x, x.flip(3)))
    assert (same ^ mirrored).all()
    assert 70 < int(mirrored.sum()) < 130


@pytest.mark.parametrize("mode", MODES)
def test_crops_are_parts_of_the_image_enlarged(mode: str):
    filter = RandomCrop(12 / 14, mode)  # pyright: ignore[reportArgumentType]
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        for row, image in enumerate(filter(X)):
            fits = [
                (a, b)
                for a in range(3)
                for b in range(3)
                if torch.allclose(resized(X[row : row + 1, :, a : a + 12, b : b + 12], 14, mode)[0], image)
            ]
            assert len(fits) == 1
            seen.add(fits[0])
    assert len(seen) == 9
    torch.testing.assert_close(RandomCrop(1.0, mode)(X), X)  # pyright: ignore[reportArgumentType]


def test_the_side_of_a_crop_is_rounded():
    ramp = torch.arange(14.0).expand(1, 1, 14, 14)
    assert [len(RandomCrop(share, "nearest")(ramp).unique()) for share in (0.89, 0.9, 0.01)] == [12, 13, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizePad(5, 4), "low 5 and out 4"),
        (lambda: RandomResizePad(0, 4), "low 0"),
        (lambda: RandomCrop(0.0), "share above 0"),
        (lambda: RandomCrop()(torch.rand(1, 1, 4, 5)), "side, side"),
        (lambda: RandomResizePad()(torch.rand(1, 1, 4, 5)), "side, side"),
    ],
)
def test_bad_settings_and_images(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()

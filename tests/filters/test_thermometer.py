"""Thermometer and one-hot codes."""

import pytest
import torch

from steelman.attacks import PGD
from steelman.filters import Thermometer
from steelman.networks.building import network_of
from steelman.networks.filtered import Filtered, filtered_shape

GREY = (torch.arange(256) / 255).reshape(1, 1, 16, 16)


def test_bits_count_the_level_and_differ_from_the_papers_at_0_alone():
    bits = Thermometer(16)(GREY).unflatten(1, (1, 16))
    level = Thermometer(16).level(GREY)
    assert torch.equal(bits.sum(2).long(), level + 1)
    assert level.min() == 0
    assert level.max() == 15
    k = torch.arange(16)[:, None, None] / 16
    papers = (GREY[:, :, None] > k).float()
    differs = (bits != papers).any(2)
    assert differs.flatten().nonzero().flatten().tolist() == [0]


@pytest.mark.parametrize("levels", [2, 5, 16])
def test_both_kinds_hold_the_same_and_are_read_back(levels: int):
    x = torch.rand(4, 3, 5, 6)
    thermometer, one_hot = Thermometer(levels), Thermometer(levels, "one_hot")
    high, one = thermometer(x), one_hot(x)
    assert high.shape == one.shape == (4, 3 * levels, 5, 6)
    each = one.unflatten(1, (3, levels))
    assert torch.equal(high.unflatten(1, (3, levels)), each.flip(2).cumsum(2).flip(2))
    for filter, bits in ((thermometer, high), (one_hot, one)):
        assert (filter.decoded(bits) - x).abs().max() <= 1 / (levels - 1)
        assert torch.equal(filter(filter.decoded(bits).clamp(0, 1)), bits)


def test_channels_follow_one_another():
    x = torch.tensor([0.1, 0.9]).reshape(1, 2, 1, 1)
    assert Thermometer(4)(x).flatten().tolist() == [1, 0, 0, 0, 1, 1, 1, 1]
    assert Thermometer(4, "one_hot")(x).flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("kind", ["thermometer", "one_hot"])
def test_the_stand_in_is_near_the_bits_and_has_the_slope_of_finite_differences(kind: str):
    filter = Thermometer(8, kind)  # pyright: ignore[reportArgumentType]
    x = torch.rand(1, 1, 20, 20, dtype=torch.float64)
    near, bits = filter.stand_in(x), filter(x)
    over = 8 * x[:, :, None] - torch.arange(8)[:, None, None]
    if kind == "thermometer":
        far = (over.abs() >= 1).flatten(1, 2)
        assert torch.equal(near[far], bits[far])
        expected = (over / 2 + 0.5).clamp(0, 1)
    else:
        inside = (8 * x) % 1 > 1e-3  # a level begins 1.00001 times later
        first, second = (each.unflatten(1, (1, 8)).argmax(2) for each in (near, bits))
        assert torch.equal(first[inside], second[inside])
        expected = (1 - (over - 0.5).abs() / 1.5).clamp(min=0)
    torch.testing.assert_close(near, expected.flatten(1, 2))
    assert torch.autograd.gradcheck(filter.stand_in, x.requires_grad_())


def test_a_network_behind_it_is_built_for_its_channels_and_attacked_through_it():
    settings = {"kind": "CNN", "filter": {"kind": "Thermometer", "levels": 4}}
    network = network_of(settings, (1, 28, 28), 10)
    assert isinstance(network, Filtered)
    assert filtered_shape(Thermometer(4), (1, 28, 28)) == (4, 28, 28)
    x, y = torch.rand(4, 1, 28, 28), torch.arange(4)
    x_adv = PGD(eps=0.3, steps=5)(network, x, y)
    assert (x_adv - x).abs().amax() > 0.1
    x = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2).requires_grad_()
    Filtered(Thermometer(4), torch.nn.Flatten())(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad != 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 1}, "levels, a whole number from 2; got 1"),
        ({"width": 0.0}, "width above 0"),
    ],
)
def test_bad_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Thermometer(**settings)


def test_images_of_another_range_are_refused():
    with pytest.raises(ValueError, match="images in \\[0, 1\\]; these reach from 0 to 2"):
        Thermometer()(torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 2))

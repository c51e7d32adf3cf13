"""Efficient Defenses' toy study: its points, what is added to them, and the numbers on the segments between them."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from steelman.papers import toy

DATA = toy.points("moons")


@pytest.fixture(scope="module")
def found() -> dict[str, toy.Trained]:
    return toy.trained(DATA, epochs=1)


@pytest.mark.parametrize("shape", toy.SHAPES)
def test_the_points_span_the_square_and_lie_on_their_shape(shape: toy.Shape) -> None:
    data = toy.points(shape)
    assert data.x.shape == (20, 2)
    assert data.x.amin(0).tolist() == [-1.0, -1.0]
    assert data.x.amax(0).tolist() == [1.0, 1.0]
    x, y = data.whole
    for label in (0, 1):
        assert 5 <= int((data.y == label).sum()) <= 15
        to_own = torch.cdist(data.x[data.y == label], x[y == label]).amin(1)
        to_other = torch.cdist(data.x[data.y == label], x[y != label]).amin(1)
        assert float(to_own.max()) < 0.01 < float(to_other.min())


def test_what_is_added_is_near_its_original_and_within_the_square(found: dict[str, toy.Trained]) -> None:
    assert tuple(found) == toy.AUGMENTATIONS
    for name, each in found.items():
        copies = {"none": 0, "uniform noise": 10, "Gaussian noise": 10}.get(name, 1)
        assert len(each.extra) == len(each.labels) == 20 * copies
        assert torch.equal(each.labels, DATA.y.repeat(copies))
        assert bool((each.extra.abs() <= 1).all())
        moved = each.extra.reshape(-1, *DATA.x.shape) - DATA.x
        if name in ("FGM", "VAT"):
            assert float(moved.norm(dim=-1).max()) == pytest.approx(0.3, abs=1e-5)
        elif name == "JSMA":
            assert bool((moved >= -1e-6).all())
            assert float(moved.max()) >= 0.1
        elif name == "uniform noise":
            assert 0.25 < float(moved.abs().max()) <= 0.3 + 1e-6
            assert bool((moved[0] != moved[1]).any())
        elif name == "Gaussian noise":
            inner = moved[:, DATA.x.abs() < 0.4]  # of these coordinates, few are clipped
            assert inner.numel() >= 50
            assert float(inner.std()) == pytest.approx(0.3, rel=0.25)


def test_attacks_are_crafted_on_the_network_without_augmentation(found: dict[str, toy.Trained]) -> None:
    net, labels = found["none"].network, found["none"].network(DATA.x).argmax(1)
    x = DATA.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(net(x), labels, reduction="sum"), x)
    expected = (DATA.x + 0.3 * slope / slope.norm(dim=1, keepdim=True)).clamp(-1, 1)
    torch.testing.assert_close(found["FGM"].extra, expected, rtol=0, atol=1e-5)


def test_the_first_layer_has_a_relu_unless_it_is_linear() -> None:
    assert [type(layer) for layer in toy._network(False)].count(nn.ReLU) == 2
    assert [type(layer) for layer in toy._network(True)].count(nn.ReLU) == 1


def test_the_numbers_of_a_known_network() -> None:
    """p = sigmoid(4 x_0): two points at -1 and 1, so that the segment has length 2."""
    net = nn.Linear(2, 2)
    net.weight.data, net.bias.data = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.zeros(2)
    x, y = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    whole = (torch.tensor([[-0.5, 0.3], [0.5, 0.0], [0.1, 0.0], [0.2, 9.0]]), torch.tensor([0, 1, 0, 1]))
    numbers = toy.measured(net, toy.Points(x, y, whole))
    mean = (math.log1p(math.exp(4)) - math.log(2)) / 4  # of sigmoid(4 s) for s from 0 to 1
    assert numbers["accuracy"] == 0.75
    assert numbers["confidence between the classes"] == pytest.approx(mean, abs=3e-3)
    assert numbers["steepest change"] == pytest.approx(1.0, abs=2e-3)


def test_the_study_draws_and_states_the_same_twice(tmp_path: Path) -> None:
    first, second = (toy.toy_study(tmp_path / f"{name}.png", epochs=1) for name in "ab")
    assert first == second
    assert len(first) == 12
    assert first[0].startswith("circles, none: accuracy ")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.svg").is_file()

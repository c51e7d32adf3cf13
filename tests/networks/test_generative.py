"""Networks that model images: their sizes, what a PixelCNN may look at, and its probabilities."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.networks import (
    DenoisingAutoencoder,
    GANCritic,
    GANGenerator,
    MLPCritic,
    MLPGenerator,
    PixelCNN,
)
from steelman.types import Logits


def pixel_cnn(shape: tuple[int, int, int], levels: int = 4, depth: int = 1) -> PixelCNN:
    torch.manual_seed(3)
    return PixelCNN(shape=shape, levels=levels, width=7, depth=depth).double()


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (PixelCNN(), 8_032),
        (GANGenerator(), 1_554_177),
        (GANGenerator(latent=32, width=16), 98_241),
        (GANCritic(), 1_030_145),
        (MLPGenerator(), 4_736),
        (MLPCritic(), 8_385),
        (DenoisingAutoencoder(), 310),
    ],
    ids=lambda each: type(each).__name__,
)
def test_their_parameters(network: nn.Module, parameters: int) -> None:
    assert sum(each.numel() for each in network.parameters()) == parameters


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (3, 32, 32), (1, 12, 20)])
def test_shapes_and_ranges(shape: tuple[int, int, int]) -> None:
    for generator in (GANGenerator(shape=shape, latent=5, width=2), MLPGenerator(shape=shape, latent=5)):
        made = generator(3 * torch.randn(4, 5))
        assert made.shape == (4, *shape)
        assert made.min() >= 0
        assert made.max() <= 1
        for critic in (GANCritic(shape=shape, width=2), MLPCritic(shape=shape)):
            assert critic(made).shape == (4,)
        again = DenoisingAutoencoder(shape=shape)(made)
        assert again.shape == made.shape
        assert again.min() >= 0
        assert again.max() <= 1
    assert PixelCNN(shape=shape, levels=3, width=2, depth=1)(made).shape == (4, 3, *shape)


def layers(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The weights and biases of each layer, in their order."""
    every = list(network.double().parameters())
    return list(zip(every[::2], every[1::2], strict=True))


def test_layer_by_layer_as_their_cards_say() -> None:
    torch.manual_seed(0)
    shape = (1, 8, 12)
    x, z = torch.rand(3, *shape, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)

    critic, found = GANCritic(shape=shape, width=2), x
    *convolutions, last = layers(critic)
    for weight, bias in convolutions:
        found = F.leaky_relu(F.conv2d(found, weight, bias, stride=2, padding=2), 0.2)
    torch.testing.assert_close(critic(x), F.linear(found.flatten(1), *last)[:, 0])

    critic, found = MLPCritic(shape=shape, width=6), x.flatten(1)
    first, second, last = layers(critic)
    for each in (first, second):
        found = F.leaky_relu(F.linear(found, *each), 0.2)
    torch.testing.assert_close(critic(x), F.linear(found, *last)[:, 0])

    generator = MLPGenerator(shape=shape, latent=5, hidden=6)
    first, second = layers(generator)
    torch.testing.assert_close(generator(z), F.linear(F.linear(z, *first).relu(), *second).sigmoid().view(x.shape))

    generator = GANGenerator(shape=shape, latent=5, width=2)
    first, *convolutions = layers(generator)
    found = F.linear(z, *first).view(3, 8, 1, 2)
    for each in convolutions:
        found = F.conv_transpose2d(found.relu(), *each, stride=2, padding=2, output_padding=1)
        found = found[:, :, :2, :3] if each is convolutions[0] else found
    torch.testing.assert_close(generator(z), found.sigmoid())

    autoencoder, found = DenoisingAutoencoder(shape=shape), x
    for place, (weight, bias) in enumerate(layers(autoencoder)):
        if place == 3:
            found = found.repeat_interleave(2, 2).repeat_interleave(2, 3)
        found = F.conv2d(found, weight, bias, padding=1).sigmoid()
        if place == 0:
            found = found.view(3, 3, 4, 2, 6, 2).mean((3, 5))
    torch.testing.assert_close(autoencoder(x), found)


@pytest.mark.parametrize(("shape", "depth"), [((1, 6, 7), 1), ((3, 3, 4), 2)])
def test_a_value_depends_on_those_before_it_alone(shape: tuple[int, int, int], depth: int) -> None:
    network = pixel_cnn(shape, depth=depth)
    with torch.no_grad():
        for each in network.parameters():
            each.abs_()  # no ReLU is off, so that what may be seen is seen
    x = torch.rand(1, *shape, dtype=torch.float64, requires_grad=True)
    logits = network(x)
    channels, height, width = shape
    order = [(c, i, j) for i, j, c in product(range(height), range(width), range(channels))]
    for place, (channel, row, column) in enumerate(order):
        (slope,) = torch.autograd.grad(logits[0, :, channel, row, column].sum(), x, retain_graph=True)
        seen = [bool(slope[0, c, i, j]) for c, i, j in order]
        assert not any(seen[place:])
        assert not slope[0, :, : max(row - 3 - depth, 0)].any()
        assert seen[place - 1] or not (column or channel)
        assert row == 0 or slope[0, :, row - 1].any()


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 2), 3), ((2, 1, 2), 3)])
def test_probabilities_of_all_images_sum_to_one(shape: tuple[int, int, int], levels: int) -> None:
    network, values = pixel_cnn(shape, levels), shape[0] * shape[1] * shape[2]
    every = torch.tensor(list(product(range(levels), repeat=values)), dtype=torch.float64) / (levels - 1)
    shares = (values * network.log_likelihood(every.view(-1, *shape))).exp()
    assert float(shares.sum().detach()) == pytest.approx(1, abs=1e-12)
    assert float(shares.max().detach()) < 0.9


@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 3, 4)])
def test_a_scan_is_a_full_pass_for_every_value(shape: tuple[int, int, int]) -> None:
    network, chosen = pixel_cnn(shape), list[tuple[tuple[int, int, int], Logits]]()

    def choose(logits: Logits, place: tuple[int, int, int]) -> Tensor:
        chosen.append((place, logits))
        return (logits + torch.arange(5, dtype=torch.float64)[:, None] * torch.tensor([1.0, -1, 0.5, 2])).argmax(1)

    found, now = network.scan(5, choose), torch.zeros(5, *shape, dtype=torch.float64)
    for (channel, row, column), logits in chosen:
        whole = network(now)[:, :, channel, row, column].detach()
        torch.testing.assert_close(logits, whole, rtol=1e-12, atol=1e-12)
        now[:, channel, row, column] = choose(whole, (0, 0, 0)) / 3
        chosen.pop()
    assert torch.equal(found, now)
    assert len({float(value) for value in found.flatten()}) > 1


def test_levels_are_the_nearest() -> None:
    network = PixelCNN(shape=(1, 1, 5), levels=5)
    x = torch.tensor([0.0, 0.13, 0.37, 0.38, 1.0]).view(1, 1, 1, 5)
    assert network.quantised(x).flatten().tolist() == [0, 1, 1, 2, 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixelCNN(levels=1), "levels >= 2.*got 1"),
        (lambda: PixelCNN(shape=(28, 28)), "image shape"),
        (lambda: GANGenerator(shape=(1, 30, 28)), "multiples of 4; got 30x28"),
        (lambda: GANGenerator(latent=0), "latent >= 1"),
        (lambda: GANCritic(width=0), "width >= 1"),
        (lambda: MLPGenerator(hidden=0), "hidden >= 1"),
        (lambda: MLPCritic(width=0), "width >= 1"),
        (lambda: DenoisingAutoencoder(shape=(1, 7, 8)), "must be even; got 7x8"),
        (lambda: DenoisingAutoencoder(width=0), "width >= 1"),
    ],
)
def test_what_cannot_be_built_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

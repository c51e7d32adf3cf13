"""PixelDefend: its window, its greedy choice, and how it falls."""

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from steelman import PGD, BitDepth, PixelDefend, Plain, Training, fit
from steelman.attacks import FGSM
from steelman.data import Digits
from steelman.defences.generative import PixelLikelihood
from steelman.networks import MLP, Filtered, PixelCNN
from steelman.training import Adam

SHAPE = (1, 8, 8)


@cache
def density(levels: int = 16) -> PixelCNN:
    torch.manual_seed(0)
    network, training = (
        PixelCNN(shape=SHAPE, levels=levels, width=8, depth=1),
        Training(epochs=2, batch_size=32, optimiser=Adam(lr=0.01)),
    )
    fit(network, Digits().load("train"), PixelLikelihood(), training, progress=False)
    return network


@cache
def images(count: int = 12) -> Tensor:
    return next(Digits().load("test").in_order(count)).x


def test_without_a_window_it_rounds_to_the_levels() -> None:
    assert torch.equal(PixelDefend(density(), 0.0)(images()), BitDepth(4)(images()))


def test_with_the_widest_window_images_do_not_matter() -> None:
    filter = PixelDefend(density(), 1.0)
    found = filter(images())
    assert torch.equal(found, found[:1].expand_as(found))
    assert torch.equal(found, PixelDefend(density(), 7.0)(1 - images()))


@pytest.mark.parametrize(
    ("eps", "levels", "reach"), [(16 / 255, 16, 1), (16 / 255, 256, 16), (0.2, 16, 3), (2.0, 4, 3)]
)
def test_the_window_is_the_nearest_number_of_levels(eps: float, levels: int, reach: int) -> None:
    filter = PixelDefend(PixelCNN(shape=SHAPE, levels=levels, width=2, depth=1), eps)
    assert filter.reach == reach
    moved = (filter(images()) - images()).abs().max()
    assert moved <= (reach + 0.5) / (levels - 1) + 1e-6


def test_every_choice_is_the_likeliest_in_its_window() -> None:
    network, eps = density(), 0.2
    found = PixelDefend(network, eps)(images())
    logits = network(found).detach()  # (batch, levels, ...): each value's, given what was chosen before
    every = torch.arange(16)[None, :, None, None, None]
    allowed = (every - network.quantised(images())[:, None]).abs() <= 3
    best = logits.masked_fill(~allowed, -torch.inf)
    taken = logits.gather(1, network.quantised(found)[:, None])
    assert (taken >= best.amax(1, keepdim=True) - 1e-5).all()
    given = logits.gather(1, network.quantised(images())[:, None])
    assert (taken >= given - 1e-5).all()
    assert (taken > given + 0.1).float().mean() > 0.1, "it moves values to likelier ones"
    assert network.log_likelihood(found).mean() > network.log_likelihood(images()).mean()


def test_of_equally_likely_levels_the_lowest() -> None:
    network = PixelCNN(shape=SHAPE, width=2, depth=1)
    for each in network.parameters():
        nn.init.zeros_(each)
    lowest = (network.quantised(images()) - 2).clamp(min=0) / 15
    torch.testing.assert_close(PixelDefend(network, 2 / 15)(images()), lowest)


def test_likely_images_are_only_rounded() -> None:
    network = density()
    bits = -network.log_likelihood(images()).detach() / math.log(2)
    middle = float(bits.median()) + 1e-6
    filter = PixelDefend(network, 0.2, likely=middle)
    found, moved = filter(images()), PixelDefend(network, 0.2)(images())
    rounded = BitDepth(4)(images())
    likely = bits <= middle
    assert likely.any()
    assert (~likely).any()
    assert torch.equal(found[likely], rounded[likely])
    assert torch.equal(found[~likely], moved[~likely])
    assert not torch.equal(moved[likely], rounded[likely])
    assert "likely=" in str(filter)
    assert torch.equal(PixelDefend(network, 0.2, likely=1e9, by_value=True)(images()), rounded)


@pytest.mark.parametrize("eps", [16 / 255, 0.5])
def test_a_value_of_its_own_moves_as_far_as_it_surprises(eps: float) -> None:
    """By a pass for each value: the likeliest level within eps / 2 times -log p, at most 32/255, rounded down."""
    network, x = density(64), images(5)
    found = PixelDefend(network, eps, by_value=True)(x)
    given, chosen = network.quantised(x), torch.zeros_like(x)
    radii = []
    for row in range(8):
        for column in range(8):
            place = (slice(None), 0, row, column)
            p = network(chosen).detach()[:, :, 0, row, column].double().softmax(1)
            for image in range(5):
                value = int(given[image, 0, row, column])
                own = min(-eps / 2 * math.log(float(p[image, value])), 32 / 255)
                reach = math.floor(own * 63 + 1e-4)
                radii.append(reach)
                low = max(value - reach, 0)
                best = low + int(p[image, low : value + reach + 1].argmax())
                chosen[image, 0, row, column] = best / 63
            assert torch.equal(found[place], chosen[place])
    assert min(radii) == 0
    assert max(radii) == (7 if eps == 0.5 else max(radii))
    assert max(radii) > 0


def test_it_refuses_what_it_was_not_made_for() -> None:
    filter = PixelDefend(density())
    for wrong, message in (
        (torch.rand(2, 1, 7, 8), r"trained on images of \(1, 8, 8\); these are \(1, 7, 8\)"),
        (torch.rand(2, 3, 8, 8), r"these are \(3, 8, 8\)"),
        (images() * 255, r"needs images in \[0, 1\]; these reach from 0 to 255"),
        (images() + torch.nan, "from nan"),
    ):
        with pytest.raises(ValueError, match=message):
            filter(wrong)
    with pytest.raises(ValueError, match=r"PixelDefend needs a trained network such as a PixelCNN, .*; got MLP"):
        PixelDefend(MLP(shape=SHAPE))
    with pytest.raises(ValueError, match="eps >= 0; got -1"):
        PixelDefend(density(), -1.0)
    with pytest.raises(ValueError, match="bits per value, above 0; got 0"):
        PixelDefend(density(), likely=0.0)


def test_its_network_is_a_frozen_copy_in_evaluation_mode() -> None:
    network = density()
    filter = PixelDefend(network).train()
    assert filter.training
    assert not filter.network.training
    assert filter.network is not network
    assert not any(each.requires_grad for each in filter.parameters())
    assert all(each.requires_grad for each in network.parameters())
    before = {name: value.clone() for name, value in filter.state_dict().items()}
    model = Filtered(filter, MLP(shape=SHAPE, hidden=(8,)))
    data = Digits().load("train").subset(torch.arange(64))
    training = Training(epochs=1, batch_size=32, ema=0.9, optimiser=Adam(weight_decay=0.1))
    fit(model, data, Plain(), training, progress=False)
    for name, value in before.items():
        assert torch.equal(model.state_dict()[f"filter.filter.{name}"], value)


def test_bpda_breaks_it_where_an_attack_without_a_gradient_does_nothing() -> None:
    torch.manual_seed(0)
    data = Digits().load("train")
    network = MLP(shape=SHAPE, hidden=(32,))
    fit(network, data, Plain(), Training(epochs=4, batch_size=32, optimiser=Adam(lr=0.01)), progress=False)
    model = Filtered(PixelDefend(density(), 32 / 255), network).eval()
    batch = next(Digits().load("test").in_order(40))

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return network(model.filter.filter(x)) + 0 * x.sum()

    def accuracy(attack: PGD | FGSM, on: nn.Module) -> float:
        return 1 - float(attack.run(on, batch.x, batch.y, generator=torch.arange(40)).success.double().mean())

    clean = float((model(batch.x).argmax(1) == batch.y).double().mean())
    with pytest.warns(UserWarning, match="gradient is zero"):
        assert accuracy(FGSM(eps=0.3), Flat().eval()) == pytest.approx(clean)
    assert clean > 0.85
    assert accuracy(PGD(eps=0.3, steps=6, step_size=0.1), model) < 0.1

"""GAP against its formulas, differentiated by autograd from end to end; its network; what it learns."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from one_pass import Net, accuracy, batch, digits, learnt, moved, noise
from steelman import GAP, AttackTraining, Batch
from steelman.adversaries.generators.resnet_generator import ResNetGenerator
from steelman.data import InMemory
from steelman.defences.game import Descend, Step
from steelman.schedules import Constant
from steelman.training import Adam

SHAPE = (2, 6, 8)
SMALL = GAP(eps=0.2, width=2, blocks=1)


def nets(adversary: GAP = SMALL) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"classifier": Net(), "generator": adversary.network(SHAPE, 3)}).double().train()


def by_hand(players: nn.ModuleDict, part: Batch) -> tuple[Tensor, Tensor]:
    """The generator's loss, in one graph, and the images."""
    classifier, images, total = copy.deepcopy(players["classifier"]).eval(), [], torch.zeros(())
    for image, raw in zip(part.x, players["generator"](part.x), strict=True):
        shift = 0.2 * raw / max(raw.flatten(), key=abs).abs()
        images.append(torch.minimum((image + shift).relu(), torch.ones_like(image)))
        clean = classifier(image[None])[0].tolist()
        total = total + torch.log(-classifier(images[-1][None])[0].softmax(0)[clean.index(min(clean))].log())
    return total / len(part), torch.stack(images).detach()


def test_a_batch_is_the_formula():
    players, part = nets(), batch(SHAPE)
    expected = copy.deepcopy(players)
    loss, _ = by_hand(expected, part)
    slopes = torch.autograd.grad(loss, list(expected["generator"].parameters()))
    before = copy.deepcopy(players["classifier"].state_dict())
    losses = moved(AttackTraining(SMALL), players, part)
    assert losses == pytest.approx({"generator": loss.item()})
    for ours, value, slope in zip(
        players["generator"].parameters(), expected["generator"].parameters(), slopes, strict=True
    ):
        torch.testing.assert_close(ours, value - slope)
    assert max(float(slope.abs().max()) for slope in slopes) > 1e-3
    torch.testing.assert_close(dict(players["classifier"].state_dict()), dict(before), rtol=0, atol=0)


def test_as_a_defence_the_classifier_descends_on_clean_and_made_images():
    defence, players, part = replace(SMALL, clean_weight=0.3), nets(), batch(SHAPE)
    expected = copy.deepcopy(players)
    _, x_adv = by_hand(expected, part)
    classifier = expected["classifier"]
    logits = classifier(torch.cat([part.x, x_adv])).log_softmax(1)  # one pass: batch normalisation sees all
    mixed = sum((-0.3 * logits[row, k] - 0.7 * logits[row + 5, k] for row, k in enumerate(part.y)), torch.zeros(()))
    slopes = torch.autograd.grad(mixed / 5, list(classifier.parameters()))
    moved(defence, players, part)
    for ours, value, slope in zip(players["classifier"].parameters(), classifier.parameters(), slopes, strict=True):
        torch.testing.assert_close(ours, value - slope)


def test_each_update_descends_into_the_network_that_then_moves_and_passes_are_those_of_the_card():
    players, asked = nets(), []
    for name, net in players.items():
        net.register_forward_hook(lambda net, x, _, name=name: asked.append((name, len(x[0]), net.training)))
    updates = list(zip(*[iter(SMALL.updates(players, batch(SHAPE)))] * 2, strict=True))
    for (descend, step), name in zip(updates, ("generator", "classifier"), strict=True):
        assert isinstance(descend, Descend)
        assert step == Step(name)
        assert {id(tensor) for tensor in descend.into} == {id(tensor) for tensor in players[name].parameters()}
    assert asked == [
        ("generator", 5, True),
        ("classifier", 5, False),  # the least likely classes
        ("classifier", 5, False),
        ("classifier", 10, True),  # its own descent
    ]


def test_before_the_box_every_perturbation_has_the_radius_exactly():
    part, generator = batch(SHAPE), nets()["generator"]
    net = nets()["classifier"].eval()
    each = torch.tensor([0.0, 0.01, 0.1, 0.3, 2.0], dtype=torch.float64)
    for eps in (0.2, each):
        attack = replace(SMALL, eps=eps, box=None, generator=generator)
        result = attack.run(net, part.x, part.y)
        expected = torch.as_tensor(eps, dtype=torch.float64).expand(5)
        torch.testing.assert_close(result.linf, expected, rtol=1e-14, atol=1e-15)
        assert result.forwards.tolist() == [1] * 5
        assert result.gradients.tolist() == [0] * 5


def test_as_an_attack_it_is_the_formula_by_running_statistics():
    part, players = batch(SHAPE), nets()
    generator = players["generator"].float()
    players["classifier"].eval()
    x_adv = SMALL.with_generator(generator)(players["classifier"], part.x, part.y)
    generator.eval().double()
    for image, made in zip(part.x, x_adv, strict=True):
        raw = generator(image[None])[0].detach()  # one image by itself
        torch.testing.assert_close(made, (image + 0.2 * raw / raw.abs().max()).clamp(0, 1), rtol=0, atol=1e-5)


class Zeros(nn.Module):
    """Answers the first image with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x[:1]), x[1:]]) * self.weight


def test_an_answer_of_zeros_changes_nothing_and_has_finite_gradients():
    part, players = batch(SHAPE), nets()
    players["generator"] = zeros = Zeros()
    moved(AttackTraining(SMALL), players, part)
    assert bool(zeros.weight.isfinite())
    x_adv = SMALL.with_generator(zeros)(players["classifier"].eval(), part.x, part.y)
    assert torch.equal(x_adv[0], part.x[0])
    assert not torch.equal(x_adv[1], part.x[1])


class Certain(nn.Module):
    """The last class is the least likely of grey images, and certain for all others."""

    def forward(self, x: Tensor) -> Tensor:
        changed = 1e4 * (x - 0.5).abs().flatten(1).sum(1) - 1
        return torch.stack([torch.zeros_like(changed), torch.ones_like(changed), changed], 1)


def test_where_the_least_likely_class_is_reached_for_sure_the_loss_is_finite():
    players = nets()
    before = copy.deepcopy(dict(players["generator"].named_parameters()))
    players["classifier"] = Certain()
    grey = Batch(torch.full((4, *SHAPE), 0.5, dtype=torch.float64), torch.tensor([0, 1, 0, 1]))
    losses = moved(AttackTraining(SMALL), players, grey)
    assert losses["generator"] == pytest.approx(math.log(1e-12))
    assert all(torch.equal(value, before[name]) for name, value in players["generator"].named_parameters())


def test_training_goes_on_from_a_generator():
    data = InMemory("few", torch.rand(4, *SHAPE), torch.tensor([0, 1, 2, 0]), ("a", "b", "c"))
    given = nets()["generator"].float()
    (player,) = replace(SMALL, generator=given).players(data).values()
    assert player.network is not given
    torch.testing.assert_close(player.network.state_dict(), given.state_dict(), rtol=0, atol=0)
    assert (player.optimiser, player.schedule) == (Adam(lr=2e-4, betas=(0.5, 0.999)), Constant())


def test_it_learns_to_break_images():
    net, _ = digits()
    attack = learnt(GAP(eps=0.2, width=4, blocks=1, optimiser=Adam(lr=2e-3, betas=(0.5, 0.999))), epochs=3)
    assert accuracy(net) > 0.95
    assert noise(0.2) > 0.9
    assert accuracy(net, attack) < 0.6


# --- the network


@pytest.mark.parametrize(("shape", "width", "blocks"), [((1, 28, 28), 4, 6), ((3, 32, 32), 5, 2), ((2, 8, 9), 3, 0)])
def test_as_many_parameters_as_its_layers_have(shape: tuple[int, int, int], width: int, blocks: int):
    channels, small, middle, large = shape[0], width, 2 * width, 4 * width
    kernels = 49 * 2 * channels * small + 9 * 2 * (small * middle + middle * large)
    norms = 2 * (2 * small + 2 * middle + large)
    whole = kernels + norms + channels + blocks * 2 * (9 * large * large + 2 * large)
    assert sum(each.numel() for each in ResNetGenerator(shape, width, blocks).parameters()) == whole


def test_the_authors_width_and_blocks_are_the_defaults():
    gap = GAP()
    with torch.device("meta"):
        generator = gap.network((1, 28, 28), 10)
    assert sum(each.numel() for each in generator.parameters()) == 7_828_865


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 1, 1), (3, 4, 17), (1, 29, 30)])
def test_any_size_comes_out_as_it_went_in(shape: tuple[int, int, int]):
    x = torch.rand(2, *shape)
    made = ResNetGenerator(shape, 2, 1)(x)
    assert made.shape == x.shape
    assert float(made.detach().abs().max()) <= 1


def test_residual_blocks_are_at_a_quarter_of_the_size():
    sides = []
    generator = ResNetGenerator((1, 28, 28), 2, 2)
    for layer in generator.layers:
        layer.register_forward_hook(lambda _layer, _x, made: sides.append(tuple(made.shape[1:])))
    generator(torch.rand(1, 1, 28, 28))
    path = [(2, 28, 28)] * 3 + [(4, 14, 14)] * 3 + [(8, 7, 7)] * 5 + [(4, 14, 14)] * 3 + [(2, 28, 28)] * 3
    assert sides == [*path, (1, 28, 28), (1, 28, 28)]


def test_small_images_are_extended_by_their_border_on_all_sides():
    x, generator = torch.rand(2, 1, 5, 20), ResNetGenerator((1, 5, 20), 2, 1).eval()
    rows = torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(5), torch.full((2,), 4)])  # 5 become 8
    torch.testing.assert_close(generator(x), generator(x[:, :, rows])[:, :, 1:6])


def test_the_network_refuses_what_it_cannot_take():
    with pytest.raises(ValueError, match="ResNetGenerator needs width >= 1 and blocks >= 0; got 0 and 6"):
        ResNetGenerator((1, 8, 8), 0)
    with pytest.raises(ValueError, match="needs an image shape"):
        ResNetGenerator((8, 8))

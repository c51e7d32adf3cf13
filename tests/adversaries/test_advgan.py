"""AdvGAN against its formulas, differentiated by autograd from end to end; its networks; what it learns."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_pass import Net, accuracy, batch, digits, learnt, moved, noise
from steelman import AdvGAN, AttackTraining, Batch
from steelman.adversaries.generators.advgan import AdvGANCritic, AdvGANGenerator
from steelman.data import InMemory
from steelman.defences.game import Descend, Step
from steelman.training import Adam

SHAPE = (2, 6, 8)
SMALL = AdvGAN(eps=0.07, adv_weight=3.0, gan_weight=0.7, norm_weight=0.2, norm_bound=0.5, width=2)


def nets(adversary: AdvGAN = SMALL) -> nn.ModuleDict:
    torch.manual_seed(0)
    generator, critic = adversary.network(SHAPE, 3), AdvGANCritic(SHAPE, 2)
    with torch.no_grad():
        generator.layers.get_parameter("19.weight").mul_(2)  # so that some of its answer is clamped
    return nn.ModuleDict({"classifier": Net(), "generator": generator, "critic": critic}).double().train()


def by_hand(adversary: AdvGAN, players: nn.ModuleDict, part: Batch) -> tuple[Tensor, Callable[[], Tensor], Tensor]:
    """The critic's loss; the generator's, against the critic as it is when that is asked for; the images."""
    classifier, critic = copy.deepcopy(players["classifier"]).eval(), players["critic"]
    raw = players["generator"](part.x)
    least, most, one = (torch.tensor(each, dtype=torch.float64) for each in (-0.07, 0.07, 1.0))
    x_adv = torch.minimum(F.relu(torch.minimum(torch.maximum(raw, least), most) + part.x), one)
    critics = torch.zeros(())
    for image, made in zip(part.x, x_adv.detach(), strict=True):
        critics = critics + ((1 - critic(image[None])) ** 2).mean() + (critic(made[None]) ** 2).mean()

    def generators() -> Tensor:
        total = torch.zeros(())
        for made, added, label in zip(x_adv, raw, part.y.tolist(), strict=True):
            logits = classifier(made[None])[0]
            rival = torch.stack([logits[k] for k in range(3) if k != label]).max()
            size = (added**2).sum().sqrt() - adversary.norm_bound
            total = total + adversary.adv_weight * F.relu(logits[label] - rival)
            total = total + adversary.gan_weight * ((critic(made[None]) - 1) ** 2).mean()
            total = total + adversary.norm_weight * F.relu(size)
        return total / len(part)

    return critics / len(part), generators, x_adv.detach()


def after(net: nn.Module, loss: Tensor, length: float = 1.0) -> dict[str, Tensor]:
    """The parameters after a step down the gradient."""
    slopes = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    return {name: value - length * slope for (name, value), slope in zip(net.named_parameters(), slopes, strict=True)}


def test_a_batch_is_the_formulas_with_the_critic_first():
    players, part = nets(), batch(SHAPE)
    expected = copy.deepcopy(players)
    critics, generators, _ = by_hand(SMALL, expected, part)
    against_the_old = after(expected["generator"], generators())
    critic = after(expected["critic"], critics)
    expected["critic"].load_state_dict(critic)
    generator = after(expected["generator"], generators())
    losses = moved(AttackTraining(SMALL), players, part)
    torch.testing.assert_close(dict(players["critic"].named_parameters()), critic)
    torch.testing.assert_close(dict(players["generator"].named_parameters()), generator)
    assert losses == pytest.approx({"critic": critics.item(), "generator": generators().item()})
    name = "layers.0.weight"
    assert not torch.allclose(generator[name], against_the_old[name]), "the order makes no difference here"


def test_every_term_matters_in_the_test_above():
    part = batch(SHAPE)
    players = nets()
    raw = players["generator"](part.x)
    assert 0.1 < float((raw.abs() < 0.07).double().mean()) < 0.9
    assert {bool(each) for each in raw.flatten(1).norm(dim=1) > SMALL.norm_bound} == {True}
    players["classifier"].eval()
    wrong = players["classifier"](part.x).argmax(1) != part.y
    assert {bool(each) for each in wrong} == {True, False}
    whole, *fewer = (
        moved(AttackTraining(each), nets(), part)["generator"]
        for each in (
            SMALL,
            *(replace(SMALL, **{name: 0.0}) for name in ("adv_weight", "gan_weight", "norm_weight", "norm_bound")),
        )
    )
    assert all(abs(whole - each) > 1e-3 for each in fewer)


def test_an_answer_costs_nothing_up_to_the_bound():
    lenient = replace(SMALL, adv_weight=0.0, gan_weight=0.0, norm_bound=100.0)
    players = nets(lenient)
    before = copy.deepcopy(players["generator"].state_dict())
    assert moved(AttackTraining(lenient), players, batch(SHAPE))["generator"] == 0
    assert all(torch.equal(value, before[name]) for name, value in players["generator"].named_parameters())


def test_each_update_descends_into_the_network_that_then_moves():
    players = nets()
    updates = list(zip(*[iter(SMALL.updates(players, batch(SHAPE)))] * 2, strict=True))
    for (descend, step), name in zip(updates, ("critic", "generator", "classifier"), strict=True):
        assert isinstance(descend, Descend)
        assert step == Step(name)
        assert {id(tensor) for tensor in descend.into} == {id(tensor) for tensor in players[name].parameters()}


def test_the_classifier_stays_as_it_is_and_each_network_runs_once_per_term():
    players, part = nets(), batch(SHAPE)
    before = copy.deepcopy(players["classifier"].state_dict())
    asked = {name: [] for name in players}
    for name, net in players.items():
        net.register_forward_hook(lambda net, x, _, name=name: asked[name].append((len(x[0]), net.training)))
    moved(AttackTraining(SMALL), players, part)
    torch.testing.assert_close(dict(players["classifier"].state_dict()), dict(before), rtol=0, atol=0)
    assert players["classifier"].training
    assert asked == {"classifier": [(5, False)], "generator": [(5, True)], "critic": [(10, True), (5, True)]}


def test_as_a_defence_the_classifier_descends_on_clean_and_made_images():
    defence, players, part = replace(SMALL, clean_weight=0.3), nets(), batch(SHAPE)
    expected = copy.deepcopy(players)
    _, _, x_adv = by_hand(defence, expected, part)
    logits = expected["classifier"](torch.cat([part.x, x_adv])).log_softmax(1)  # one pass: batch normalisation sees all
    mixed = -sum(
        (0.3 * logits[row, label] + 0.7 * logits[row + 5, label] for row, label in enumerate(part.y)), torch.zeros(())
    )
    classifier = after(expected["classifier"], mixed / 5)
    moved(defence, players, part)
    torch.testing.assert_close(dict(players["classifier"].named_parameters()), classifier)


def test_the_critic_is_new_where_the_generator_is_given():
    data = InMemory("few", torch.rand(4, *SHAPE), torch.tensor([0, 1, 2, 0]), ("a", "b", "c"))
    given = nets()["generator"].float()
    players = replace(SMALL, generator=given).players(data)
    assert players.keys() == {"generator", "critic"}
    assert players["generator"].network is not given
    torch.testing.assert_close(players["generator"].network.state_dict(), given.state_dict(), rtol=0, atol=0)
    for player in players.values():
        assert (player.optimiser, player.schedule) == (SMALL.optimiser, SMALL.schedule)
    assert AttackTraining(SMALL).players(data).keys() == players.keys()


def test_as_an_attack_it_adds_the_generators_answer_within_the_radius():
    players, part = nets(), batch(SHAPE)
    generator = players["generator"].float()
    attack = SMALL.with_generator(generator)
    result = attack.run(players["classifier"].eval(), part.x, part.y)
    with torch.no_grad():
        raw = generator.eval()(part.x.float()).double()
    expected = (part.x + raw.clamp(-0.07, 0.07)).clamp(0, 1)
    torch.testing.assert_close(result.x_adv, expected, rtol=0, atol=1e-12)
    assert result.forwards.tolist() == [1] * 5
    assert result.gradients.tolist() == [0] * 5


def test_it_learns_to_break_images():
    net, _ = digits()
    attack = learnt(AdvGAN(eps=0.2, width=4, norm_weight=0.1), epochs=2)
    assert accuracy(net) > 0.95
    assert noise(0.2) > 0.9
    assert accuracy(net, attack) < 0.5


# --- the networks


@pytest.mark.parametrize(("shape", "width"), [((1, 28, 28), 8), ((3, 32, 32), 8), ((2, 5, 9), 3)])
def test_as_many_parameters_as_its_layers_have(shape: tuple[int, int, int], width: int):
    channels, small, middle, large = shape[0], width, 2 * width, 4 * width
    kernels = 9 * (channels * small + 2 * small * middle + 2 * middle * large) + 36 * small * channels
    blocks = 4 * 2 * (9 * large * large + 2 * large)  # two convolutions each, with scale and shift
    assert count(AdvGANGenerator(shape, width)) == kernels + blocks
    kernels = 16 * (channels * small + small * middle + middle * large) + large
    assert count(AdvGANCritic(shape, width)) == kernels + small + middle + large + 1
    assert count(AdvGANGenerator((1, 28, 28))) == 86_120
    assert count(AdvGANCritic((1, 28, 28))) == 10_457


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_sides_on_mnist_are_those_of_the_re_implementation():
    sides = []
    generator = AdvGANGenerator((1, 28, 28), 2)
    for layer in generator.layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _layer, _x, made: sides.append(made.shape[-1]))
    generator(torch.rand(1, 1, 28, 28))
    assert sides == [26, 12, 5, 11, 23, 28]
    assert AdvGANCritic((1, 28, 28), 2)(torch.rand(3, 1, 28, 28)).shape == (3, 1)
    assert AdvGANCritic((3, 32, 32), 2)(torch.rand(3, 3, 32, 32)).shape == (3, 4)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 1, 1), (3, 4, 17), (1, 29, 30)])
def test_any_size_comes_out_as_it_went_in(shape: tuple[int, int, int]):
    x = torch.rand(2, *shape)
    made = AdvGANGenerator(shape, 2)(x)
    assert made.shape == x.shape
    assert float(made.detach().abs().max()) <= 1
    judged = AdvGANCritic(shape, 2)(x).detach()
    assert bool(((judged > 0) & (judged < 1)).all())


def test_small_images_are_extended_by_their_border_on_all_sides():
    x = torch.rand(2, 1, 7, 20)
    generator, critic = AdvGANGenerator((1, 7, 20), 2).eval(), AdvGANCritic((1, 7, 20), 2)
    rows = torch.tensor([0] * 4 + list(range(7)) + [6] * 5)  # 7 become 16
    torch.testing.assert_close(generator(x), generator(x[:, :, rows])[:, :, 4:11])
    rows, columns = torch.tensor([0] * 7 + list(range(7)) + [6] * 8), torch.tensor([0, *range(20), 19])
    torch.testing.assert_close(critic(x), critic(x[:, :, rows][..., columns]))


def test_the_critics_answer_for_an_image_depends_on_no_other():
    critic, x = AdvGANCritic((1, 28, 28), 4).double().train(), torch.rand(4, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(critic(x), torch.cat([critic(image[None]) for image in x]))


@pytest.mark.parametrize("network", [AdvGANGenerator, AdvGANCritic])
def test_networks_refuse_what_they_cannot_take(network: type[nn.Module]):
    with pytest.raises(ValueError, match=f"{network.__name__} needs width >= 1; got 0"):
        network((1, 8, 8), 0)
    with pytest.raises(ValueError, match="needs an image shape"):
        network((8, 8), 2)


def test_both_players_have_the_adversarys_optimiser_by_default_adam():
    assert AdvGAN().optimiser == Adam(lr=1e-3)
    assert [AdvGAN().schedule(done) for done in (0.49, 0.5, 0.8)] == pytest.approx([1, 0.1, 0.01])

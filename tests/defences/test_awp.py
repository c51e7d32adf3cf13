"""Adversarial weight perturbation against its formula, and what it leaves as it was."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from every_defence import Changeable, first, images, network
from steelman import AWP, FGSM, MART, PGD, TRADES, AdversarialTraining, Batch, Plain, config
from steelman.defences import Game
from steelman.defences.adversarial import Adversarial
from steelman.training import Average, Descend, Step, play

ATTACK = PGD(eps=0.1, steps=3, normal_start=0.001)
OBJECTIVES = {"pgd": AdversarialTraining(ATTACK), "trades": TRADES(ATTACK), "mart": MART(ATTACK)}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def moved_by_hand(model: nn.Module, objective: Adversarial, batch: Batch, gamma: float) -> nn.Module:
    """A copy of the network at the perturbed weights, as in the authors' code: a proxy that takes one step up."""
    proxy = copy.deepcopy(model)
    loss = objective.loss(proxy, batch, objective.craft(proxy, batch))
    slopes = torch.autograd.grad(loss, list(proxy.parameters()))
    moved = copy.deepcopy(model)
    for w, slope in zip(moved.parameters(), slopes, strict=True):
        if w.dim() > 1:
            length = sum(each**2 for each in w.flatten().tolist()) ** 0.5
            steep = sum(each**2 for each in slope.flatten().tolist()) ** 0.5
            w.data += gamma * length * slope / steep
    return moved


@every_objective
def test_it_steps_along_the_gradient_at_the_perturbed_weights(name: str):
    objective, batch = OBJECTIVES[name], first(12, torch.float64)
    model = network().double()
    moved = moved_by_hand(model, objective, batch, 0.02)
    made = objective.craft(model, batch)
    loss = objective.loss(moved, batch, made)
    slopes = torch.autograd.grad(loss, list(moved.parameters()))
    before = objective.loss(model, batch, made)
    assert loss > before + 1e-3
    wanted = [w - 0.1 * (slope + 0.01 * w) for w, slope in zip(model.parameters(), slopes, strict=True)]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    losses = play(AWP(objective, gamma=0.02), model, batch, optimiser)
    torch.testing.assert_close(list(model.parameters()), wanted)
    assert losses == {"classifier": pytest.approx(loss.item())}
    assert all(w.grad is None for w in model.parameters())


def played(game: AWP, model: nn.Module, batch: Batch) -> Iterator[tuple[Descend | Average | Step, list[Tensor]]]:
    """The updates, each carried out, with the weights at that moment."""
    for update in game.updates(nn.ModuleDict({"classifier": model}), batch):
        yield update, [w.detach().clone() for w in model.parameters()]
        if isinstance(update, Descend):
            update.loss.backward(inputs=list(update.into))


def test_the_weights_are_back_to_the_bit_before_the_step():
    model, batch = network(), first(12)
    kept = [w.detach().clone() for w in model.parameters()]
    steps = list(played(AWP(OBJECTIVES["trades"], gamma=0.3), model, batch))
    assert [type(update) for update, _ in steps] == [Descend, Average, Descend, Step]
    up, average, down, step = (weights for _, weights in steps)
    for w, at_up, at_average, at_down, at_step in zip(kept, up, average, down, step, strict=True):
        assert torch.equal(at_up, w)
        assert torch.equal(at_average, w)
        assert torch.equal(at_step, w)
        if w.dim() > 1:
            torch.testing.assert_close((at_down - w).norm(), 0.3 * w.norm())
        else:
            assert torch.equal(at_down, w)


@dataclass(frozen=True)
class Breaks(Adversarial):
    """Its second loss is an error."""

    calls: list[int]

    def craft(self, model: nn.Module, batch: Batch) -> Batch:
        return batch

    def loss(self, model: nn.Module, batch: Batch, made: Batch) -> Tensor:
        self.calls.append(len(batch))
        if len(self.calls) == 2:
            raise ValueError("broken")
        return Plain()(model, batch)


def test_the_weights_are_back_after_an_error_too():
    model = network()
    kept = [w.detach().clone() for w in model.parameters()]
    with pytest.raises(ValueError, match="broken"):
        play(AWP(Breaks([])), model, first(12), torch.optim.SGD(model.parameters(), lr=0.1))
    assert all(torch.equal(w, before) for w, before in zip(model.parameters(), kept, strict=True))


@every_objective
@pytest.mark.parametrize("off", [{"gamma": 0.0}, {"warmup": 0.5}], ids=str)
def test_without_a_perturbation_it_is_the_objective(name: str, off: dict[str, float]):
    batch = replace(first(12), progress=0.25)
    models = network(), network()
    games = OBJECTIVES[name], AWP(OBJECTIVES[name], **off)
    losses = [
        play(game, model, batch, torch.optim.SGD(model.parameters(), lr=0.1))
        for game, model in zip(games, models, strict=True)
    ]
    assert losses[0] == losses[1]
    for plain, ours, start in zip(*(model.parameters() for model in (*models, network())), strict=True):
        assert torch.equal(plain, ours)
        assert not torch.equal(plain, start)


def test_after_the_warmup_weights_are_perturbed():
    batch = replace(first(12), progress=0.5)
    models = network(), network()
    for game, model in zip((OBJECTIVES["pgd"], AWP(OBJECTIVES["pgd"], warmup=0.5)), models, strict=True):
        play(game, model, batch, torch.optim.SGD(model.parameters(), lr=0.1))
    assert not torch.equal(*(next(model.parameters()) for model in models))


def test_only_the_pass_that_learns_moves_running_statistics():
    torch.manual_seed(0)
    model = Changeable()
    model.drop.p = 0.0
    objective, batch = AdversarialTraining(FGSM(eps=0.1)), first(12)
    moved = moved_by_hand(model, objective, batch, 0.1)
    made = objective.craft(model, batch)
    objective.loss(moved, batch, made)
    play(AWP(objective, gamma=0.1), model, batch, torch.optim.SGD(model.parameters(), lr=0.0))
    assert dict(model.named_buffers())["norm.num_batches_tracked"] == 1
    torch.testing.assert_close(dict(model.named_buffers()), dict(moved.named_buffers()))


@dataclass(frozen=True)
class Counted(Adversarial):
    """Counts how often it crafts."""

    crafted: list[int]

    def craft(self, model: nn.Module, batch: Batch) -> Batch:
        self.crafted.append(len(batch))
        return OBJECTIVES["pgd"].craft(model, batch)

    def loss(self, model: nn.Module, batch: Batch, made: Batch) -> Tensor:
        return OBJECTIVES["pgd"].loss(model, batch, made)


def test_it_crafts_once():
    model, counted = network(), Counted([])
    play(AWP(counted), model, first(12), torch.optim.SGD(model.parameters(), lr=0.1))
    assert counted.crafted == [12]


def test_tiny_gradients_still_give_a_whole_perturbation():
    model, batch = network(), first(12)

    @dataclass(frozen=True)
    class Faint(Adversarial):
        def craft(self, model: nn.Module, batch: Batch) -> Batch:
            return batch

        def loss(self, model: nn.Module, batch: Batch, made: Batch) -> Tensor:
            return Plain()(model, batch) * 1e-30

    _, _, (_, at_down), _ = played(AWP(Faint(), gamma=0.1), model, batch)
    for w, there in zip(model.parameters(), at_down, strict=True):
        if w.dim() > 1:
            torch.testing.assert_close((there - w).norm(), 0.1 * w.norm())


def test_an_objective_that_does_not_craft_before_its_loss_is_refused():
    game = AWP()
    object.__setattr__(game, "objective", Plain())  # past the tests' type checks
    with pytest.raises(ValueError, match=r"Adversarial objective, such as.*got Plain"):
        game.__post_init__()
    with pytest.raises(ValueError, match=r"defence\.objective.*Plain"):
        config.read(Game, {"kind": "AWP", "objective": {"kind": "Plain"}}, "defence")


def test_a_network_without_layers_is_refused():
    with pytest.raises(ValueError, match="Sequential has none"):
        AWP().setup(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), images())

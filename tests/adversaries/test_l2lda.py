"""L2L-DA against its formulas, written out, and cases that are easily wrong."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every_defence import Changeable, changeable, images
from recursion import (
    SHAPE,
    SMALL,
    STAR,
    Recording,
    Scripted,
    batch,
    change,
    classifier,
    generator,
    learnt,
    length,
    optimisers,
    parameters,
    seated,
    written_out,
)
from steelman import L2LDA, AttackTraining, Batch
from steelman.defences.game import Descend, Step
from steelman.training import play

SWITCHES = {
    "as it is": SMALL,
    "a heavy diversity, by the paper's ratio": replace(SMALL, diversity=0.5, ratio="sum"),
    "sums over steps": replace(SMALL, total="sum", diversity=0.3),
    "by channels": replace(SMALL, normalise="channel"),
    "by root mean square": replace(SMALL, normalise="rms"),
    "not normalised": replace(SMALL, normalise="none", step_size=0.07),
    "no delta": replace(SMALL, delta=False),
    "no label": replace(SMALL, label=False),
    "no latent": replace(SMALL, latent=0, diversity=0.0),
    "deep": replace(SMALL, deep=True),
    "single-shot": replace(SMALL, steps=1, step_size=0.2),
    "L2L*": STAR,
}
switches = pytest.mark.parametrize("adversary", SWITCHES.values(), ids=SWITCHES)
FREE = replace(SMALL, clip_norm=1e9, diversity=0.0)


@switches
def test_loss_gradient_and_images_are_those_of_the_recursion_written_out(adversary: L2LDA) -> None:
    nets, data = seated(adversary), batch()
    network, model = nets["generator"], nets["classifier"]
    loss, made = learnt(adversary, nets, data)
    ours = torch.autograd.grad(-loss, list(network.parameters()))
    z = list(network.asked[0][1].split(len(data)))
    gain, path = written_out(adversary, network.network, model, data, z)
    torch.testing.assert_close(-loss, gain, rtol=1e-7, atol=0)  # the code's guard against z1 = z2 is 1e-8
    torch.testing.assert_close(made.x, torch.cat(path[-1]).detach(), rtol=0, atol=1e-12)
    assert torch.equal(made.y, data.y.repeat(len(z)))
    assert not made.x.requires_grad
    torch.testing.assert_close(ours, torch.autograd.grad(gain, list(network.parameters())), rtol=1e-5, atol=1e-9)
    assert float((made.x[: len(data)] - data.x).abs().max()) == pytest.approx(0.2), (
        "no pixel reached the ball's surface"
    )


def test_gradients_do_not_cross_the_gradient_image() -> None:
    adversary = replace(SMALL, normalise="rms")
    nets, data = seated(adversary), batch()
    network = nets["generator"]
    loss, _ = learnt(adversary, nets, data)
    ours = torch.autograd.grad(-loss, list(network.parameters()))
    z = list(network.asked[0][1].split(len(data)))
    gain, _ = written_out(adversary, network.network, nets["classifier"], data, z, crossing=True)
    torch.testing.assert_close(-loss, gain, rtol=1e-7, atol=0)
    theirs = torch.autograd.grad(gain, list(network.parameters()))
    assert length([a - b for a, b in zip(ours, theirs, strict=True)]) > 0.005 * length(ours)


@pytest.mark.parametrize("samples", [1, 3])
@switches
def test_the_attack_is_the_recursion_too_and_returns_the_best_of_several(adversary: L2LDA, samples: int) -> None:
    data, model = batch(12), classifier()
    network = generator(adversary)
    attack = replace(adversary, generator=network, samples=samples)
    x_adv = attack(model, data.x, data.y, generator=data.seeds)
    asked = [call[1] for call in network.asked[:: adversary.steps]]
    assert len(asked) == samples
    network.network.eval()
    paths = [written_out(replace(adversary, diversity=0.0), network.network, model, data, [z])[1] for z in asked]
    ends = [path[-1][0].detach() for path in paths]
    best = []
    for one in range(len(data)):
        logits = [model(end)[one].detach() for end in ends]
        rank = [(int(row.argmax()) != int(data.y[one]), float(row.logsumexp(0) - row[data.y[one]])) for row in logits]
        best.append(ends[rank.index(max(rank))][one])
    torch.testing.assert_close(x_adv, torch.stack(best), rtol=0, atol=1e-12)
    assert network.modes == [False] * (samples * adversary.steps)


def test_a_generator_in_train_mode_attacks_as_in_evaluation_mode() -> None:
    data, model, network = batch(), classifier(), generator(SMALL)
    evaluating = replace(SMALL, generator=network.eval())(model, data.x, data.y, generator=data.seeds)
    training = replace(SMALL, generator=network.train())(model, data.x, data.y, generator=data.seeds)
    assert torch.equal(evaluating, training)
    assert network.network.training


# --- easily wrong


def test_z_is_drawn_once_per_trajectory_and_anew_for_each_draw_image_and_batch() -> None:
    nets, data = seated(SMALL), batch()
    learnt(SMALL, nets, data)
    z = [call[1] for call in nets["generator"].asked]
    assert len(z) == 3
    assert all(torch.equal(each, z[0]) for each in z)
    assert len(z[0].unique(dim=0)) == 12
    assert 0.5 < float(z[0].std()) < 1.5
    learnt(SMALL, nets, replace(data, seeds=data.seeds + 100))
    assert not bool((nets["generator"].asked[-1][1] == z[0]).any())


@pytest.mark.parametrize(
    ("pixel", "script", "end"),
    [
        (0.9, (1, 1, 1, -1), 0.9 + 0.1),  # delta is .15, the box cut its image; fed back it would be .1 - .05
        (0.2, (1, 1, 1, 1, 1, 1, -1), 0.2 + 0.15),  # cut to .2 by the ball, then .15; else .3 - .05
        (0.1, (-1, -1, -1, 1, 1), 0.1 - 0.05),  # fed back, delta would be -.1 + .1
        (0.1, (-1, -1, -1, -1, -1), 0.0),
    ],
)
def test_the_ball_bounds_delta_and_the_box_does_not(pixel: float, script: tuple[float, ...], end: float) -> None:
    adversary = L2LDA(eps=0.2, steps=len(script), width=2)
    x = torch.full((2, *SHAPE), pixel, dtype=torch.float64)
    data, expected = Batch(x, torch.tensor([3, 4]), seeds=torch.arange(2)), torch.full_like(x, end)
    x_adv = replace(adversary, generator=Scripted(*script))(classifier(), x, data.y)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    nets = nn.ModuleDict({"classifier": classifier(), "generator": Scripted(*script)})
    torch.testing.assert_close(learnt(adversary, nets, data)[1].x, expected.repeat(2, 1, 1, 1), rtol=0, atol=1e-12)


def test_each_descends_into_its_own_network_alone() -> None:
    nets, data = seated(FREE), batch()
    order, moved = [], []
    for update in FREE.updates(nets, data):
        if isinstance(update, Descend):
            into = list(update.into)
            update.loss.backward(inputs=into)
            moved = [name for name, net in nets.items() if any(each.grad is not None for each in net.parameters())]
            assert len(moved) == 1
            assert [id(each) for each in into] == [id(each) for each in nets[moved[0]].parameters()]
        else:
            assert isinstance(update, Step)
            assert update.net == moved[0]
            order.append(update.net)
            nets.zero_grad()
    assert order == ["generator", "classifier"]


def test_the_generator_ascends_the_loss() -> None:
    """By finite differences: a small step of length r * |g| raises the mean cross-entropy by r * |g|^2."""
    nets, data, rate = seated(FREE), batch(), 1e-5
    network, model = nets["generator"], nets["classifier"]
    learnt(FREE, nets, data)
    z = list(network.asked[0][1].split(len(data)))
    before, _ = written_out(FREE, network.network, model, data, z)
    slope = length(torch.autograd.grad(before, list(network.parameters())))
    kept = parameters(model)
    play(AttackTraining(FREE), nets, data, optimisers(nets, generator=rate, classifier=1.0))
    after, _ = written_out(FREE, network.network, model, data, z)
    assert float((after - before).detach()) == pytest.approx(rate * slope**2, rel=1e-2)
    assert length(change(model, kept)) == 0


@pytest.mark.parametrize("clean_weight", [0.5, 1 / 3, 0.0])
def test_the_classifier_descends_clean_and_old_images_whatever_the_generator_gains(clean_weight: float) -> None:
    adversary = replace(FREE, clean_weight=clean_weight)
    nets, data = seated(adversary), batch()
    model = nets["classifier"]
    _, made = learnt(adversary, nets, data)
    others = made.x.split(len(data))

    def losses() -> Tensor:
        clean, *draws = (F.cross_entropy(model(x), data.y) for x in (data.x, *others))
        return clean_weight * clean + (1 - clean_weight) * (draws[0] + draws[1]) / 2

    before, slopes = losses(), torch.autograd.grad(losses(), list(model.parameters()))
    kept, rate = parameters(model), 1e-4
    # The generator takes a long step, so that its new images are other ones.
    play(adversary, nets, data, optimisers(nets, generator=10.0, classifier=rate))
    torch.testing.assert_close(change(model, kept), [-rate * each for each in slopes], rtol=1e-6, atol=1e-12)
    assert float((before - losses()).detach()) == pytest.approx(rate * length(slopes) ** 2, rel=1e-2)
    assert float((learnt(adversary, nets, data)[1].x - made.x).abs().max()) > 0.05


def test_the_code_s_weighting_is_the_mean_over_three_batches() -> None:
    adversary = replace(FREE, clean_weight=1 / 3)
    nets, data = seated(adversary), batch()
    made = learnt(adversary, nets, data)[1]
    mean = F.cross_entropy(nets["classifier"](torch.cat([data.x, made.x])), torch.cat([data.y, made.y]))
    losses = play(adversary, nets, data, optimisers(nets))
    assert losses["classifier"] == pytest.approx(float(mean.detach()), rel=1e-6)


def test_the_classifier_is_in_evaluation_mode_until_its_own_descent_and_the_generator_in_train_mode() -> None:
    model = Recording(changeable())
    adversary = L2LDA(eps=0.2, steps=3, width=2)
    torch.manual_seed(0)
    network = Recording(adversary.network((1, 8, 8), 10).double())
    nets = nn.ModuleDict({"classifier": model, "generator": network}).train()
    data = next(images().batches([torch.arange(6)]))
    data = replace(data, x=data.x.double(), seeds=torch.arange(6))
    play(adversary, nets, data, optimisers(nets))
    assert model.modes == [False] * 4 + [True]
    assert [len(call[0]) for call in model.asked] == [6, 12, 12, 12, 18]
    assert network.modes == [True] * 3
    assert all(module.training for module in nets.modules())
    assert all(each.requires_grad for each in nets.parameters())
    assert isinstance(model.network, Changeable)
    assert int(model.network.norm.num_batches_tracked) == 1
    play(AttackTraining(adversary), nets, data, optimisers(nets))
    assert int(model.network.norm.num_batches_tracked) == 1
    assert all(module.training for module in nets.modules())


def test_no_graph_of_the_classifier_is_kept_until_the_generator_descends() -> None:
    nets, data = seated(SMALL), batch()
    made: list[weakref.ref[Tensor]] = []

    def remember(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        made.append(weakref.ref(answer))

    for module in nets["classifier"].modules():
        module.register_forward_hook(remember)
    gc.freeze()  # so that the collections below pass over what other tests have made
    descent = next(SMALL.learn(nets, data))
    gc.collect()
    assert len(made) > SMALL.steps
    assert isinstance(descent, Descend)
    assert not any(each() is not None for each in made)
    made.clear()
    kept = nets["classifier"](data.x).sum()
    gc.collect()
    gc.unfreeze()
    assert kept.requires_grad
    assert any(each() is not None for each in made), "the hooks do not see what a graph keeps"


def test_both_gradients_are_clipped() -> None:
    adversary = replace(SMALL, clip_norm=0.01)
    nets, data = seated(adversary), batch()
    kept = {name: parameters(net) for name, net in nets.items()}
    play(adversary, nets, data, optimisers(nets, generator=1.0, classifier=1.0))
    for name, net in nets.items():
        assert length(change(net, kept[name])) == pytest.approx(0.01, rel=1e-3)
    assert SMALL.clip_norm == 1

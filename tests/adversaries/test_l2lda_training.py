"""L2L-DA's switches and ablations, what it refuses, and which epoch of a training is kept."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every_defence import images
from recursion import (
    SHAPE,
    SMALL,
    STAR,
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
)
from steelman import L2LDA, PGD, AttackTraining, Plain, Training, checkpoint, evaluate, fit
from steelman.adversaries.generators.batchnorm import GlobalBatchNorm
from steelman.data import Digits
from steelman.data.sample import split_off
from steelman.measures import accuracy
from steelman.training import SGD, play, trained_weights


def test_the_paper_s_ratio_is_the_code_s_with_its_weight_converted() -> None:
    nets, data = seated(SMALL), batch()
    heavy = replace(SMALL, diversity=3.0)
    converted = replace(heavy, ratio="sum", diversity=3.0 * 8 / 192)
    mean, total, without = (learnt(each, nets, data)[0] for each in (heavy, converted, replace(heavy, diversity=0.0)))
    torch.testing.assert_close(mean, total, rtol=1e-6, atol=0)
    assert float((without - mean).detach()) > 1e-3
    three = learnt(replace(heavy, total="sum"), nets, data)[0]
    torch.testing.assert_close(three, 3 * mean, rtol=1e-12, atol=0)


def test_diversity_rises() -> None:
    nets, data = seated(SMALL), batch()
    only = replace(SMALL, diversity=1000.0)

    def apart() -> float:
        first, second = learnt(SMALL, nets, data)[1].x.split(len(data))
        return float((first - second).abs().mean())

    before = apart()
    for _ in range(5):
        play(AttackTraining(only), nets, data, optimisers(nets, generator=0.02))
    assert apart() > 1.05 * before


def test_l2l_star_is_one_step_of_eps_by_the_image_and_its_raw_gradient() -> None:
    data, model = batch(), classifier()
    network = generator(STAR).eval()
    x = data.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(x), data.y, reduction="sum"), x)
    expected = (data.x + 0.2 * network.network(torch.cat([data.x, slope], 1))).clamp(0, 1)
    torch.testing.assert_close(replace(STAR, generator=network)(model, data.x, data.y), expected)
    (call,) = network.asked
    assert [tuple(each.shape) for each in call] == [(6, 6, 8, 8), (6, 0), (6,)]


@pytest.mark.parametrize(
    ("adversary", "channels", "conditional"),
    [
        (SMALL, 3 * 3 + 8, True),
        (replace(SMALL, delta=False), 2 * 3 + 8, True),
        (replace(SMALL, label=False), 3 * 3 + 8, False),
        (replace(SMALL, delta=False, label=False), 2 * 3 + 8, False),
        (replace(SMALL, latent=3), 3 * 3 + 3, True),
        (STAR, 2 * 3, False),
    ],
)
def test_an_ablation_takes_away_an_input_of_the_generator(adversary: L2LDA, channels: int, conditional: bool) -> None:
    network = adversary.network(SHAPE, 10)
    assert network.down0.in_channels == channels
    norms = [module for module in network.modules() if isinstance(module, GlobalBatchNorm)]
    assert [module.class_scale is not None for module in norms] == [conditional] * 3
    nets, data = nn.ModuleDict({"classifier": classifier(), "generator": network.double()}), batch()
    loss, _ = learnt(adversary, nets, data)
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    assert all(bool(each.any()) for each in slopes), "a part of the generator does nothing"


def test_without_recursion_one_step_of_eps_is_taken() -> None:
    adversary = replace(SMALL, steps=1, step_size=0.2)
    nets, data = nn.ModuleDict({"classifier": classifier(), "generator": Scripted(1.0)}), batch()
    _, made = learnt(adversary, nets, data)
    torch.testing.assert_close(made.x, (data.x + 0.2).clamp(0, 1).repeat(2, 1, 1, 1))


@pytest.mark.parametrize("normalise", ["image", "channel", "rms", "none"])
def test_the_gradient_image(normalise: Any) -> None:
    """Of each image's own loss: a batch of one and of many see the same. A gradient of 0 stays 0."""
    adversary, data, model = replace(STAR, normalise=normalise), batch(), classifier()
    with torch.no_grad():
        model[1].weight[:, :64] = 0  # no slope in the first channel
    network = generator(adversary)
    replace(adversary, generator=network)(model, data.x, data.y)
    together = network.asked[0][0][:, 3:]
    for one in range(6):
        x = data.x[one : one + 1].clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(x), data.y[one : one + 1]), x)
        size: Any = {
            "image": slope.norm(),
            "channel": slope.norm(dim=(2, 3), keepdim=True),
            "rms": slope.norm() / 192**0.5,
            "none": 1.0,
        }[normalise]
        expected = torch.where(slope == 0, 0.0, slope / size)
        torch.testing.assert_close(together[one], expected[0], rtol=1e-6, atol=1e-12)
    assert float(together[:, 0].abs().max()) == 0
    with torch.no_grad():
        model[1].weight.zero_()
    with pytest.warns(UserWarning, match="gradient"):
        x_adv = replace(adversary, generator=network)(model, data.x, data.y)
    assert float(network.asked[-1][0][:, 3:].abs().max()) == 0
    assert bool(x_adv.isfinite().all())


# --- bad input


def test_an_attack_needs_a_generator_for_these_images() -> None:
    data, model = batch(), classifier()
    for attack, message in (
        (SMALL, "L2LDA has no generator yet: train one"),
        (replace(SMALL, generator=3), "generator is a network or the path of a run; got 3"),
        (
            replace(SMALL, generator=SMALL.network((1, 8, 8), 10)),
            r"trained for images of \(1, 8, 8\); these are \(3, 8",
        ),
        (replace(SMALL, generator=SMALL.network(SHAPE, 4)), "trained for 4 classes; here are 6"),
    ):
        with pytest.raises(ValueError, match=message):
            attack(model, data.x, data.y)
    with pytest.raises(ValueError, match="L2LDA has no targeted form; leave target out, or use PGD"):
        replace(SMALL, generator=generator(SMALL))(model, data.x, data.y, target=(data.y + 1) % 10)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        replace(SMALL, generator="nowhere")(model, data.x, data.y)


# --- which epoch is kept

# At this rate the generator is soon worse than it was.
ATTACKED = AttackTraining(
    L2LDA(eps=0.2, steps=2, step_size=0.1, width=2, normalise="rms", optimiser=SGD(lr=10.0, momentum=0.9))
)
KEPT = Training(epochs=3, batch_size=20, optimiser=SGD(lr=0.1), validation=30, seed=1)


def classifier_of_digits() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model.load_state_dict(trained())
    return model


@cache
def trained() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    fit(model, images(), Plain(), Training(epochs=8, batch_size=20, seed=0), progress=False)
    return model.state_dict()


def test_the_generator_that_fools_most_held_out_images_is_kept(tmp_path: Path) -> None:
    model = classifier_of_digits()
    before = parameters(model)
    log = fit(model, images(), ATTACKED, KEPT, folder=tmp_path, progress=False).log
    assert length(change(model, before)) == 0
    best = checkpoint.load(tmp_path / "best.safetensors")
    scores = [line["generated"] for line in log[1:]]
    assert best["epoch"] == 1 + scores.index(min(scores))
    assert min(scores) < scores[-1], "the last one is among the best, so nothing was chosen"
    _, held = split_off(images(), 30, KEPT.seed)
    network = ATTACKED.adversary.network((1, 8, 8), 10)
    for name, score in (("best", min(scores)), ("last", scores[-1])):
        network.load_state_dict(trained_weights(tmp_path, name, "generator"))
        table = evaluate(model, held, {"generated": ATTACKED.adversary.with_generator(network)}, seed=1, progress=False)
        assert accuracy(table, "generated").value == score


def test_test_images_are_measured_and_choose_nothing(tmp_path: Path) -> None:
    test = Digits().load("test").subset(torch.arange(10))
    lines = {}
    for name, tracked in (("with", 10), ("without", 0)):
        training = replace(KEPT, track_test=tracked)
        lines[name] = fit(
            classifier_of_digits(), images(), ATTACKED, training, folder=tmp_path / name, test=test, progress=False
        ).log
    assert all({"test_clean", "test_rho_2"} <= line.keys() for line in lines["with"])
    kept = ({key: line[key] for key in line if "test" not in key and key != "seconds"} for line in lines["with"])
    assert list(kept) == [{key: line[key] for key in line if key != "seconds"} for line in lines["without"]]
    one, other = (checkpoint.load(tmp_path / name / "best.safetensors") for name in lines)
    assert one["epoch"] == other["epoch"]
    for key, value in one["generator"].items():
        assert torch.equal(value, other["generator"][key])


def test_as_a_defence_the_monitor_chooses_the_epoch_of_both_networks() -> None:
    training = replace(KEPT, monitor=PGD(eps=0.1, steps=3), patience=6)
    model = classifier_of_digits()
    game = ATTACKED.adversary
    players = game.players(images())
    log = fit(model, images(), game, training, players=players, progress=False).log
    assert all({"clean", "robust", "generated"} <= line.keys() for line in log)
    assert all({"loss", "generator loss"} <= line.keys() for line in log[1:])
    scores = [line["robust"] for line in log[1:]]
    assert max(scores) > scores[-1], "the last one is among the best, so nothing was chosen"
    _, held = split_off(images(), 30, KEPT.seed)
    attacks = {"robust": training.monitor, "generated": game.with_generator(players["generator"].network)}
    table = evaluate(model, held, attacks, seed=1, progress=False)
    line = log[1 + scores.index(max(scores))]
    assert {name: accuracy(table, name).value for name in attacks} == {name: line[name] for name in attacks}

"""TisODE's penalty against its formula in plain loops, behind filters and preprocessing, in training and in TOML."""

import tomllib
from dataclasses import replace
from itertools import pairwise

import pytest
import tomli_w
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from every_defence import TRAINING, first, images
from steelman import Batch, NoiseMixture, Plain, SteadyState, config, fit
from steelman.defences import Game
from steelman.filters import BitDepth
from steelman.networks import MLP, Filtered, Normalise, ODENet, Preprocessed
from steelman.training import MicroBatches, play

BATCH = first(12, torch.float64)


def flow(step: float = 0.05) -> ODENet:
    torch.manual_seed(0)
    return ODENet(shape=(1, 8, 8), variant="tisode", width=4, step=step).double()


def written(model: ODENet, x: Tensor, y: Tensor, weight: float, times: tuple[float, float]) -> Tensor:
    """Step by step, with a list of all states."""
    z, states = model.features(x), []
    for _ in range(round(2 / model.step) + 1):
        states.append(z)
        z = z + model.step * model.slope(z, 0.0)
    slopes = [(b - a) / model.step for a, b in pairwise(states)]
    start, end = (round(time / model.step) for time in times)
    area = sum(model.step * slope.abs() for slope in slopes[start:end])
    assert isinstance(area, Tensor)
    entries = area.flatten()
    logits = model.head(states[round(1 / model.step)])
    return F.cross_entropy(logits, y) + weight * entries.sum() / len(entries)


@pytest.mark.parametrize(
    ("defence", "times"),
    [
        (SteadyState(weight=0.7), (0.75, 1.05)),
        (SteadyState(weight=0.7, form="paper"), (1.0, 2.0)),
        (SteadyState(weight=0.7, times=(0.9, 1.5)), (0.9, 1.5)),
    ],
    ids=repr,
)
def test_value_and_gradient_are_those_of_the_formula(defence: SteadyState, times: tuple[float, float]) -> None:
    model = flow()
    ours, theirs = defence(model, BATCH), written(model, BATCH.x, BATCH.y, 0.7, times)
    torch.testing.assert_close(ours, theirs)
    parameters = list(model.parameters())
    torch.testing.assert_close(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters))
    plain = Plain()(model, BATCH)
    assert float(ours.detach() - plain.detach()) > 1e-3


def test_the_penalty_begins_when_it_is_told_to() -> None:
    model, defence = flow(), SteadyState(weight=1.0)
    plain = Plain()(model, BATCH).detach()
    for progress, penalised in ((0.0, False), (0.049, False), (5 / 100, True), (1.0, True)):
        loss = defence(model, replace(BATCH, progress=progress)).detach()
        assert torch.equal(loss, plain) != penalised
    assert torch.equal(SteadyState(weight=0.0)(model, BATCH).detach(), plain)
    assert not torch.equal(replace(defence, begin=0.0)(model, replace(BATCH, progress=0.0)).detach(), plain)


def test_behind_filters_and_preprocessing_it_sees_what_the_network_sees() -> None:
    model, defence = flow(0.25), SteadyState(weight=0.7, form="paper")
    normalise = Normalise(shape=(1, 8, 8), mean=(0.3,), std=(0.5,)).double()
    whole = Filtered(BitDepth(2), Preprocessed(normalise, model))
    seen = normalise(BitDepth(2)(BATCH.x))
    torch.testing.assert_close(defence(whole, BATCH), written(model, seen, BATCH.y, 0.7, (1.0, 2.0)))


def test_it_trains_a_network_to_move_less() -> None:
    areas = []
    for weight in (0.0, 30.0):
        model, game = flow(0.25).float(), NoiseMixture(SteadyState(weight=weight, begin=0.5, form="paper"))
        log = fit(model, images(), game, replace(TRAINING, epochs=4), progress=False).log
        areas.append(float(model.trajectory(BATCH.x.float(), 1.0, 2.0)[1].detach().mean()))
    assert areas[1] < 0.5 * areas[0]
    assert log[3]["loss"] > log[2]["loss"], "the penalty begins in the middle"


@pytest.mark.parametrize("size", [1, 5])
def test_micro_batches_make_the_same_update(size: int) -> None:
    moved, defence = [], NoiseMixture(SteadyState(weight=0.5, form="paper"))
    for game in (defence, MicroBatches(defence, size)):
        model = flow(0.25)
        play(game, model, BATCH, torch.optim.SGD(model.parameters(), lr=1.0))
        moved.append(list(model.parameters()))
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-6, atol=1e-6)


def test_it_leaves_the_model_as_it_was_and_survives_toml() -> None:
    model = flow()
    model.head.fc1.bias.requires_grad_(False)
    SteadyState().setup(model.train(), images())(model, BATCH)
    assert model.training
    assert [name for name, each in model.named_parameters() if not each.requires_grad] == ["head.fc1.bias"]
    assert all(each.grad is None for each in model.parameters())
    for defence in (SteadyState(times=(0.9, 1.5)), NoiseMixture(SteadyState(form="paper"), sigmas=(0.1,))):
        text = tomli_w.dumps({"defence": config.write(defence)})
        assert config.read(Game, tomllib.loads(text)["defence"], "defence") == defence


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MLP(shape=(1, 8, 8)), "a network with a trajectory, such as ODENet; MLP has none"),
        (ODENet(shape=(1, 8, 8), width=4), "the time 0.75 is not a multiple of the step 0.1 after 0"),
        (ODENet(shape=(1, 8, 8), width=4, variant="cnn"), "the time 0.75 is not a multiple of the step 1 after 0"),
        (Preprocessed(nn.Identity(), nn.Linear(1, 1)), "Linear has none"),
    ],
)
def test_networks_that_it_cannot_train_are_refused_before_any_work(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteadyState().setup(model, images())
    with pytest.raises(ValueError, match=message):
        SteadyState()(model, first(2))


def test_the_paper_form_trains_the_other_networks_of_the_family_too() -> None:
    for variant in ("ode", "cnn"):
        model = ODENet(shape=(1, 8, 8), width=4, variant=variant)
        assert bool(SteadyState(form="paper").setup(model, images())(model, first(3)).isfinite())


def test_impossible_settings_are_refused() -> None:
    for times in ((1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="t1 < t3; got"):
            SteadyState(times=times)
    with pytest.raises(ValueError, match="times >= 0"):
        SteadyState(times=(-1.0, 1.0))
    with pytest.raises(ValueError, match="weight >= 0"):
        SteadyState(weight=-1.0)
    with pytest.raises(ValueError, match=r"defence.form: .*'log'"):
        config.read(Game, {"kind": "SteadyState", "form": "log"}, "defence")
    assert Batch(BATCH.x, BATCH.y).progress == 1.0  # a loop of one's own has the penalty from the start

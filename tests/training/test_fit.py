"""The training loop."""

import json
import math
import os
import pty
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import FGSM, Batch, Plain, Training, checkpoint, evaluate, fit
from steelman.data import Digits, Flip, PadCrop, sampled, split_off
from steelman.defences import Objective
from steelman.networks.random_layers import AddedNoise
from steelman.training import (
    SGD,
    Adam,
    Constant,
    Cosine,
    Linear,
    MicroBatches,
    Schedule,
    Stages,
    Steps,
    UnevenSGD,
    trained_weights,
)
from trainings import TRAINING, Spy, images, network, same


def test_two_lines_for_a_user_with_a_network_and_tensors():
    x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    history = fit(model, (x, y), Plain(), Training(epochs=2))
    table = evaluate(model, (x, y), [FGSM(eps=0.1)])
    assert [line["epoch"] for line in history.log] == [0, 1, 2]
    assert table.images == 60
    assert "3 lines" in repr(history)


def test_a_plain_loop_written_here_ends_in_the_same_weights():
    """Order apart, which is fit's own: the spy tells it."""
    model, spy = network(), Spy()
    fit(model, images(), spy, TRAINING)
    other = network()
    optimiser = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    for batch in spy.seen:
        optimiser.zero_grad()
        F.cross_entropy(other(batch.x), batch.y).backward()
        optimiser.step()
    assert same(model, other)
    for epoch in range(3):
        part = spy.seen[5 * epoch : 5 * epoch + 5]
        assert [len(batch) for batch in part] == [20, 20, 20, 20, 10]
        assert sorted(torch.cat([batch.index for batch in part]).tolist()) == images().index.tolist()
    orders = {tuple(torch.cat([b.index for b in spy.seen[5 * e : 5 * e + 5]]).tolist()) for e in range(3)}
    seeds = {seed for batch in spy.seen for seed in batch.seeds.tolist()}
    assert len(orders) == 3
    assert len(seeds) == 3 * 90


def test_an_image_has_the_same_seed_whatever_else_is_trained_on():
    seeds = []
    for data in (images(), images().subset(torch.arange(30, 90))):
        spy = Spy()
        fit(network(), data, spy, replace(TRAINING, epochs=1))
        pairs = [(batch.index.tolist(), batch.seeds.tolist()) for batch in spy.seen]
        seeds.append({place: seed for places, own in pairs for place, seed in zip(places, own, strict=True)})
    assert len(seeds[1]) == 60
    assert seeds[1].items() <= seeds[0].items()


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (Constant(), [1, 1, 1, 1, 1]),
        (Steps((0.4, 0.8), 0.5), [1, 1, 0.5, 0.5, 0.25]),
        (Cosine(), [0.5 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]),
        (Cosine(warmup=0.4), [0, 0.5, 1, 0.75, 0.25]),
        (Linear(), [0, 0.2, 0.4, 0.6, 0.8]),
        (Linear(start=1.0, end=0.5, by=0.4), [1, 0.75, 0.5, 0.5, 0.5]),
        (Stages((0.2, 1.0, 0.5), (0.2, 0.8)), [0.2, 1, 1, 1, 0.5]),
    ],
)
def test_schedules(schedule: Schedule, factors: list[float]):
    """One batch an epoch, so that the log tells every rate."""
    log = fit(network(), images(20), Plain(), Training(epochs=5, optimiser=Adam(lr=0.01), schedule=schedule)).log
    assert [line["lr"] for line in log[1:]] == pytest.approx([0.01 * factor for factor in factors])


def test_biases_and_the_last_layer_have_rates_of_their_own():
    """Every step is -lr times the factor times (gradient + decay), from the same gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10))
    before = [each.detach().clone() for each in model.parameters()]
    x, y = next(images(20).in_order(20)).x, next(images(20).in_order(20)).y
    slopes = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
    optimiser = UnevenSGD(lr=0.1, momentum=0.0, weight_decay=0.5, bias=20.0, last=0.25)
    log = fit(
        model, images(20), Plain(), Training(epochs=1, optimiser=optimiser, schedule=Stages((0.5, 1.0), (1.0,)))
    ).log
    for after, start, slope, factor in zip(model.parameters(), before, slopes, (1, 20, 0.25, 5), strict=True):
        torch.testing.assert_close(after.detach(), start - 0.05 * factor * (slope + 0.5 * start))
    assert log[1]["lr"] == pytest.approx(0.05)


WRONG = [
    {"ema": 1.0}, {"epochs": -1}, {"monitor": FGSM()}, {"micro_batch": 0}, {"iterations": 0}, {"images": 0},
    {"swa": 1.0}, {"swa": 0.5, "ema": 0.9}, {"patience": 2}, {"patience": 0, "validation": 0.1},
]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [lambda: Steps((1.5,)), lambda: Cosine(warmup=1.0), lambda: Linear(by=0.0)]
    + [lambda: Stages((1.0,), (0.5,)), lambda: Stages((1.0, 2.0, 3.0), (0.8, 0.2))]
    + [lambda settings=settings: Training(**settings) for settings in WRONG],
)
def test_settings_that_make_no_sense_are_refused(wrong: Callable[[], object]):
    with pytest.raises(ValueError, match=r"got|set validation"):
        wrong()


def test_the_moving_average_is_the_naive_one(tmp_path: Path):
    weights: list[list[Tensor]] = []
    spy = Spy(lambda batch, model: weights.append([p.detach().clone() for p in model.parameters()]))
    model = network()
    fit(model, images(), spy, replace(TRAINING, ema=0.6), folder=tmp_path)
    raw = checkpoint.load(tmp_path / "last.safetensors")["nets"]["classifier"]
    weights = [*weights[1:], list(raw.values())]
    average = weights[0]
    for each in weights[1:]:
        average = [0.6 * a + 0.4 * b for a, b in zip(average, each, strict=True)]
    torch.testing.assert_close(list(model.parameters()), average)
    torch.testing.assert_close(list(trained_weights(tmp_path).values()), average)
    assert not torch.equal(average[0], raw["1.weight"])


@pytest.mark.parametrize("iterations", [3, 5, 12])
def test_iterations_end_an_epoch_in_its_middle(iterations: int, tmp_path: Path):
    spy, twice = Spy(), Spy()
    log = fit(network(), images(), spy, replace(TRAINING, epochs=99, iterations=iterations)).log
    assert len(spy.seen) == iterations
    assert [batch.progress for batch in spy.seen] == pytest.approx([each / iterations for each in range(iterations)])
    assert [line["epoch"] for line in log] == list(range(-(-iterations // 5) + 1))
    fit(network(), images(), twice, replace(TRAINING, epochs=3))
    assert [b.index.tolist() for b in spy.seen] == [b.index.tolist() for b in twice.seen[:iterations]]
    numbers = [batch.common for batch in spy.seen]
    assert len(set(numbers)) == iterations
    assert numbers == [batch.common for batch in twice.seen[:iterations]]


def test_stochastic_weight_averaging_is_the_mean_over_epochs(tmp_path: Path):
    """And batch normalisation is measured anew on all training images, for the averaged weights."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    ends: list[list[Tensor]] = []

    def keep(batch: int, model: nn.Module) -> None:
        if batch % 5 == 1:
            ends.append([p.detach().clone() for p in model.parameters()])

    fit(model, images(), Spy(keep), replace(TRAINING, epochs=4, swa=0.5), folder=tmp_path)
    raw = checkpoint.load(tmp_path / "last.safetensors")["nets"]["classifier"]
    ends.append([raw[key] for key, _ in model.named_parameters()])
    weights = [torch.stack(each).mean(0) for each in zip(*ends[2:], strict=True)]  # after epochs 2, 3 and 4
    torch.testing.assert_close(list(model.parameters()), weights)
    hidden = F.linear(images().images.float().flatten(1) / 16, weights[0], weights[1])
    batches = hidden.split(20)
    torch.testing.assert_close(model[2].running_mean, torch.stack([part.mean(0) for part in batches]).mean(0))
    torch.testing.assert_close(model[2].running_var, torch.stack([part.var(0) for part in batches]).mean(0))


def test_patience_stops_and_hands_out_the_best(tmp_path: Path):
    training = replace(TRAINING, epochs=40, optimiser=SGD(lr=0.3), validation=0.2, monitor=FGSM(eps=0.05), patience=3)
    model = network()
    log = fit(model, images(), Plain(), training, folder=tmp_path).log
    robust = [line["robust"] for line in log[1:]]
    best = max(range(len(robust)), key=lambda epoch: robust[epoch])
    assert len(robust) == best + 1 + 3 < 40
    assert same(model, _loaded(trained_weights(tmp_path)))
    assert not same(model, _loaded(trained_weights(tmp_path, "last")))
    alone = network()
    assert len(fit(alone, images(), Plain(), training).log) == len(log)
    assert same(alone, model)
    again = network()
    fit(again, images(), Plain(), training, folder=tmp_path)  # there is nothing left to do
    assert same(again, model)


def _loaded(weights: dict[str, Tensor]) -> nn.Module:
    model = network()
    model.load_state_dict(weights)
    return model


def test_held_out_images_are_never_trained_on_and_choose_the_best(tmp_path: Path):
    model, spy = network(), Spy()
    training = replace(TRAINING, epochs=8, optimiser=SGD(lr=0.3), validation=0.2, monitor=FGSM(eps=0.05), seed=2)
    kept: dict[int, dict[str, Tensor]] = {}

    def keep(batch: int, model: nn.Module) -> None:
        if batch % 4 == 1:  # the weights with which an epoch of 4 batches begins
            kept[batch // 4] = {key: value.clone() for key, value in model.state_dict().items()}

    spy.act = keep
    log = fit(model, images(), spy, training, folder=tmp_path).log
    kept[8] = model.state_dict()
    rest, held = split_off(images(), 18, seed=2)
    assert {place for batch in spy.seen for place in batch.index.tolist()} == set(rest.index.tolist())
    robust = [line["robust"] for line in log]
    best = 1 + max(range(8), key=lambda epoch: robust[epoch + 1])  # the first of equals; never epoch 0
    assert len(set(robust)) > 2
    assert checkpoint.load(tmp_path / "best.safetensors")["epoch"] == best
    assert all(torch.equal(value, kept[best][key]) for key, value in trained_weights(tmp_path).items())
    assert all(torch.equal(value, kept[8][key]) for key, value in trained_weights(tmp_path, "last").items())
    model.load_state_dict(trained_weights(tmp_path))
    model.eval()
    (whole,) = held.in_order(100)
    assert log[best]["clean"] == (model(whole.x).argmax(1) == whole.y).double().mean().item()


def test_a_training_that_was_stopped_remembers_what_its_best_epoch_reached(tmp_path: Path):
    training = replace(TRAINING, epochs=8, optimiser=SGD(lr=0.3), validation=0.2, monitor=FGSM(eps=0.05), seed=2)
    fit(network(), images(), Spy(), training, folder=tmp_path / "whole")
    best = checkpoint.load(tmp_path / "whole" / "best.safetensors")["epoch"]
    assert 0 < best < 8, "nothing follows the best epoch, so nothing is tested"
    stop = Spy(lambda batch, model: os.kill(os.getpid(), signal.SIGINT) if batch == 4 * best + 1 else None)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), images(), stop, training, folder=tmp_path / "stopped")
    fit(network(), images(), Spy(), training, folder=tmp_path / "stopped")
    assert checkpoint.load(tmp_path / "stopped" / "best.safetensors")["epoch"] == best


def test_few_images_are_trained_on_where_few_are_asked_for():
    spy = Spy()
    fit(network(), images(), spy, replace(TRAINING, images=30, validation=20, seed=2))
    rest, held = split_off(images(), 20, seed=2)
    _, some = split_off(rest, 30, seed=2)
    seen = {place for batch in spy.seen for place in batch.index.tolist()}
    assert seen == set(some.index.tolist())
    assert not seen & set(held.index.tolist())
    spy = Spy()
    fit(network(), images(), spy, replace(TRAINING, epochs=1, images=10**6))
    assert sum(len(batch) for batch in spy.seen) == len(images())


def test_the_log_begins_before_training(tmp_path: Path):
    test = Digits().load("test")
    model = network().eval()
    (some,) = sampled(test, 40).in_order(40)
    before = (model(some.x).argmax(1) == some.y).double().mean().item()
    log = fit(model, images(), Plain(), replace(TRAINING, track_test=40), folder=tmp_path, test=test).log
    assert log[0] == {"epoch": 0, "test_clean": before, "test_rho_2": log[0]["test_rho_2"]}
    assert set(log[1]) == {"epoch", "loss", "lr", "seconds", "test_clean", "test_rho_2"}
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == log
    (whole,) = test.in_order(len(test))
    before = (network().eval()(whole.x).argmax(1) == whole.y).double().mean().item()
    many = fit(network(), images(), Plain(), replace(TRAINING, epochs=0, track_test=10**6), test=test).log
    assert many[0]["test_clean"] == before


def test_the_accuracies_of_a_random_network_are_of_the_trainings_seed():
    """Also the first one, before which no batch has set the generator; and whatever the caller drew before."""

    def accuracies(seed: int, chance: int) -> list[float]:
        model = nn.Sequential(AddedNoise(1.0), network())
        training = replace(TRAINING, epochs=1, validation=60, seed=seed)
        torch.manual_seed(chance)
        return [line["clean"] for line in fit(model, images(), Plain(), training).log]

    found = accuracies(0, 1)
    assert accuracies(0, 2) == accuracies(0, 3) == found
    assert accuracies(4, 1) != found


def test_no_epochs_still_leave_a_network_to_evaluate(tmp_path: Path):
    model = network()
    fit(model, images(), Plain(), replace(TRAINING, epochs=0), folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(trained_weights(tmp_path).values(), model.parameters(), strict=True))


def test_augmentation_varies_each_image_in_each_epoch():
    spy = Spy()
    fit(network(), images(), spy, replace(TRAINING, augment=(PadCrop(1), Flip())))
    originals = {int(index): x for index, x in zip(images().index, next(images().in_order(90)).x, strict=True)}
    changed = sum(
        not torch.equal(x, originals[int(index)])
        for batch in spy.seen
        for x, index in zip(batch.x, batch.index, strict=True)
    )
    assert 200 < changed <= 270  # all but one in 18 of 270


def test_every_epoch_and_every_seed_has_an_order_and_a_chance_of_its_own():
    orders, chances = [], []
    for seed in (0, 1, 0):
        drawn: list[float] = []
        spy = Spy(lambda batch, model, drawn=drawn: drawn.append(float(torch.rand(1))))
        fit(network(), images(), spy, replace(TRAINING, epochs=2, seed=seed))
        order = torch.cat([batch.index for batch in spy.seen if batch.index is not None]).tolist()
        orders += [order[:90], order[90:]]
        chances += [drawn[:5], drawn[5:]]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    for found in (orders, chances):
        assert len({tuple(each) for each in found}) == 4
        assert found[:2] == found[4:]


def test_what_cannot_be_trained_is_refused_before_work():
    data = images()
    for message, model, defence, training in [
        ("label 9 has no class", nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), Plain(), TRAINING),
        ("returns probabilities", nn.Sequential(network(), nn.Softmax(1)), Plain(), TRAINING),
        ("no parameter that requires a gradient", nn.Flatten(), Plain(), TRAINING),
        ("no images are left to train on: 90 images, 90", network(), Plain(), replace(TRAINING, validation=90)),
        ("track_test measures test images", network(), Plain(), replace(TRAINING, track_test=5)),
        ("tensorboard writes into the run's folder", network(), Plain(), replace(TRAINING, tensorboard=True)),
        (
            "micro_batch divides the batches of an Objective",
            network(),
            MicroBatches(Plain(), 3),
            replace(TRAINING, micro_batch=2),
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(model, data, defence, training)


def test_the_models_mode_is_found_again():
    model = network(0.5).eval()
    fit(model, images(), Plain(), TRAINING)
    assert not any(module.training for module in model.modules())


def test_the_bar_is_silent_where_nobody_watches(capfd: pytest.CaptureFixture[str]):
    fit(network(), images(), Plain(), TRAINING)
    assert capfd.readouterr() == ("", "")


def test_the_bar_shows_loss_robust_accuracy_and_time_left(monkeypatch: pytest.MonkeyPatch):
    ours, theirs = pty.openpty()
    for name, value in (("TERM", "xterm"), ("COLUMNS", "150")):
        monkeypatch.setenv(name, value)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        fit(network(), images(), Plain(), replace(TRAINING, validation=10, monitor=FGSM(eps=0.1)))
        monkeypatch.undo()
        os.set_blocking(ours, False)
        shown = "".join(chunks(ours))
    os.close(ours)
    for part in ("loss ", "clean 0.", "robust 0.", "epoch 3", "left", "0:00:0"):
        assert part in shown


def chunks(terminal: int) -> Iterator[str]:
    """All that waits there; one read gives a page at most."""
    with suppress(BlockingIOError):
        while part := os.read(terminal, 1 << 16):
            yield part.decode(errors="replace")


def test_tensorboard_gets_every_number_once(tmp_path: Path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    training = replace(TRAINING, validation=10, tensorboard=True)
    spy = Spy(lambda batch, model: os.kill(os.getpid(), signal.SIGINT) if batch == 6 else None)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), images(), spy, training, folder=tmp_path)
    log = fit(network(), images(), Spy(), replace(training, tensorboard=True), folder=tmp_path).log
    events = loader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("clean")] == [0, 1, 2, 3]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([line["loss"] for line in log[1:]])
    fit(network(), images(), Spy(), replace(training, tensorboard=False), folder=tmp_path)  # the same run


def test_without_tensorboard_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'steelman\[tensorboard\]'"):
        fit(network(), images(), Plain(), replace(TRAINING, tensorboard=True), folder=tmp_path)


@dataclass(frozen=True)
class Complaining(Objective):
    """Warns in every batch, of other images each time."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.index is not None
        warnings.warn(f"image {int(batch.index[0])} is odd", stacklevel=1)
        return Plain()(model, batch)


def test_what_every_batch_warns_of_is_said_once_per_training() -> None:
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            fit(network(), images(), Complaining(), Training(epochs=2, batch_size=20), progress=False)
        assert sum("is odd" in str(each.message) for each in caught) == 1

"""Games with other networks than the classifier, in the training loop."""

import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import Batch, Plain, Training, checkpoint, fit
from steelman.attacks import Attack
from steelman.attacks.core.oracle import Oracle
from steelman.data import Dataset, Digits, InMemory, split_off
from steelman.losses import Goal
from steelman.randomness import Draws
from steelman.report.charts import training_charts
from steelman.report.plots import draw
from steelman.training import SGD, Adam, Descend, Game, Player, Step, Steps, trained_weights
from steelman.types import Images

TRAINING = Training(epochs=4, batch_size=20, optimiser=SGD(lr=0.05), seed=3)


class Shift(nn.Module):
    """The same perturbation for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(0.1 * torch.randn(1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


@dataclass(frozen=True)
class Shifting(Attack):
    shift: Any

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        oracle.decisions(x)
        return self.shift(x).clamp(0, 1)


@dataclass(frozen=True)
class Duel(Game):
    """A shift that raises the loss that the classifier descends."""

    seen: list[Batch] = field(default_factory=list, repr=False, compare=False)

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Step]:
        self.seen.append(batch)
        loss = F.cross_entropy(nets["classifier"](nets["shift"](batch.x)), batch.y)
        yield Descend(-loss, nets["shift"].parameters(), keep=True)
        yield Descend(loss, nets["classifier"].parameters())
        yield Step("shift")
        yield Step()

    def players(self, data: Dataset) -> dict[str, Player]:
        assert data.shape == (1, 8, 8)
        return {"shift": Player(Shift(), SGD(lr=2.0, momentum=0.5), Steps((0.5,), 0.1))}

    def monitor(self, nets: nn.ModuleDict) -> Attack:
        return Shifting(nets["shift"])


class AttackAlone(Duel):
    """The classifier stays; the shift harms it in the first half, and helps it in the second."""

    frozen = True

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Step]:
        loss = F.cross_entropy(nets["classifier"](nets["shift"](batch.x)), batch.y)
        yield Descend(loss if batch.progress >= 0.5 else -loss, nets["shift"].parameters())
        yield Step("shift")

    def players(self, data: Dataset) -> dict[str, Player]:
        return {"shift": Player(Shift(), SGD(lr=1.0, momentum=0.0))}


def images() -> InMemory:
    return Digits().load("train").subset(torch.arange(90) * 11)


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def weights(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def test_each_player_has_its_own_optimiser_and_schedule_and_a_plain_loop_ends_in_the_same_weights(tmp_path: Path):
    model, shift, game = network(), Shift(), Duel()
    begun = weights(shift)
    player = Player(shift, SGD(lr=2.0, momentum=0.5), Steps((0.5,), 0.1))
    log = fit(model, images(), game, TRAINING, folder=tmp_path, players={"shift": player}).log
    again = Shift()
    with torch.no_grad():
        again.by.copy_(begun[0])
    ours: dict[str, nn.Module] = {"classifier": network(), "shift": again}
    descents = {
        "classifier": torch.optim.SGD(ours["classifier"].parameters(), lr=0.05, momentum=0.9),
        "shift": torch.optim.SGD(ours["shift"].parameters(), lr=2.0, momentum=0.5),
    }
    means = [0.0] * 4
    for place, batch in enumerate(game.seen):
        descents["shift"].param_groups[0]["lr"] = 2.0 if place < 10 else 0.2
        loss = F.cross_entropy(ours["classifier"](ours["shift"](batch.x)), batch.y)
        means[place // 5] += loss.item() * len(batch) / 90
        for name, sign in (("shift", -1), ("classifier", 1)):
            slopes = torch.autograd.grad(sign * loss, list(ours[name].parameters()), retain_graph=True)
            for parameter, slope in zip(ours[name].parameters(), slopes, strict=True):
                parameter.grad = slope
        for descent in descents.values():
            descent.step()
    torch.testing.assert_close(weights(model), weights(ours["classifier"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights(shift), weights(ours["shift"]), rtol=0, atol=1e-6)
    assert not torch.equal(shift.by, begun[0])
    assert [line["loss"] for line in log[1:]] == pytest.approx(means, abs=1e-5)
    assert [line["shift loss"] for line in log[1:]] == pytest.approx([-mean for mean in means], abs=1e-5)
    assert [line["lr"] for line in log[1:]] == [0.05] * 4  # the classifier's
    assert torch.equal(trained_weights(tmp_path, net="shift")["by"], shift.by)
    assert torch.equal(trained_weights(tmp_path, "last", "shift")["by"], shift.by)


def test_players_are_made_from_the_seed_and_from_nothing_else(tmp_path: Path):
    made = []
    for place, seed in enumerate((3, 3, 4)):
        torch.manual_seed(place)
        fit(network(), images(), Duel(), replace(TRAINING, epochs=0, seed=seed), folder=tmp_path / str(place))
        made.append(trained_weights(tmp_path / str(place), net="shift")["by"])
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_another_player_in_the_folder_is_refused_and_an_unknown_one_anywhere(tmp_path: Path):
    fit(network(), images(), Duel(), TRAINING, folder=tmp_path)
    for player in (Player(Shift(), Adam()), Player(Shift(), SGD(lr=2.0, momentum=0.5))):
        with pytest.raises(ValueError, match="holds a run with another shift: use another folder"):
            fit(network(), images(), Duel(), TRAINING, folder=tmp_path, players={"shift": player})
    with pytest.raises(ValueError, match=r"Duel has no player 'shfit'; did you mean shift\?"):
        fit(network(), images(), Duel(), TRAINING, players={"shfit": player})
    with pytest.raises(ValueError, match=r"Plain has no player 'shift'; there are none"):
        fit(network(), images(), Plain(), TRAINING, players={"shift": player})
    fit(network(), images(), Plain(), TRAINING, folder=tmp_path / "plain")
    with pytest.raises(ValueError, match=r"has no shift, only classifier: its defence trains no such"):
        trained_weights(tmp_path / "plain", net="shift")


def test_held_out_images_meet_what_the_players_are_by_now(tmp_path: Path):
    model, shift = network(), Shift()
    players = {"shift": Player(shift, SGD(lr=2.0))}
    log = fit(model, images(), Duel(), replace(TRAINING, validation=30), folder=tmp_path, players=players).log
    _, held = split_off(images(), 30, 3)
    (batch,) = held.in_order(30)
    wrong = model(shift(batch.x).clamp(0, 1)).argmax(1) == batch.y
    assert log[-1]["generated"] == pytest.approx(wrong.double().mean().item())
    assert log[-1]["clean"] == pytest.approx((model(batch.x).argmax(1) == batch.y).double().mean().item())
    best = max(range(1, 5), key=lambda epoch: log[epoch]["clean"])  # the classifier learns, so its accuracy chooses
    assert checkpoint.load(tmp_path / "best.safetensors")["epoch"] == best


@pytest.mark.parametrize("patience", [None, 2])
def test_the_best_attack_on_a_frozen_classifier_is_that_of_the_lowest_accuracy(patience: int | None, tmp_path: Path):
    victim = network()
    fit(victim, images(), Plain(), replace(TRAINING, epochs=10, optimiser=SGD(lr=0.1)))
    before = weights(victim)
    training = Training(epochs=8, batch_size=20, validation=30, patience=patience, optimiser=SGD(lr=9.0))
    torch.manual_seed(1)
    shift = Shift()
    players = {"shift": Player(shift, SGD(lr=0.1, momentum=0.0))}
    log = fit(victim, images(), AttackAlone(), training, folder=tmp_path, players=players).log
    assert all(torch.equal(a, b) for a, b in zip(before, weights(victim), strict=True))
    generated = [line["generated"] for line in log]
    best = min(range(1, len(log)), key=lambda epoch: generated[epoch])  # the first of equals, never epoch 0
    assert 1 < best < len(log) - 1
    assert checkpoint.load(tmp_path / "best.safetensors")["epoch"] == best
    assert len(log) == (9 if patience is None else best + 1 + patience)
    handed = trained_weights(tmp_path, net="shift")["by"]
    assert torch.equal(handed, shift.by) == (patience is not None)
    assert not torch.equal(handed, trained_weights(tmp_path, "last", "shift")["by"])
    assert all("loss" not in line for line in log)
    assert log[1]["lr"] == 0.1  # of who moves


def test_without_held_out_images_the_last_attack_is_the_best(tmp_path: Path):
    fit(network(), images(), AttackAlone(), replace(TRAINING, optimiser=SGD()), folder=tmp_path)
    assert checkpoint.load(tmp_path / "best.safetensors")["epoch"] == 4


def test_an_attack_is_not_continued_against_another_classifier(tmp_path: Path):
    fit(network(), images(), AttackAlone(), TRAINING, folder=tmp_path)
    other = network()
    with torch.no_grad():
        next(other.parameters())[0].add_(1e-6)
    with pytest.raises(ValueError, match="another frozen classifier: use another folder"):
        fit(other, images(), AttackAlone(), TRAINING, folder=tmp_path)
    fit(network(), images(), AttackAlone(), TRAINING, folder=tmp_path)


def test_the_bar_names_each_network_and_what_was_measured(monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    for name, value in (("TERM", "xterm"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(network(), images(), Duel(), replace(TRAINING, epochs=2, validation=20), progress=True)
    text = terminal.getvalue()
    assert re.search(r"epoch 2 .*shift loss -\d\.\d{4}  loss \d\.\d{4}  clean \d\.\d{4}  generated \d\.\d{4}", text)


def test_losses_below_0_are_seen_in_the_curve():
    log = [{"epoch": 1, "generator loss": -2.5, "loss": 0.5}, {"epoch": 2, "generator loss": -3.0, "loss": 0.25}]
    drawn = {name: draw(chart) for name, chart in training_charts({"run": log}).items()}
    assert drawn["generator loss"].axes[0].get_ylim()[0] < -3
    assert drawn["loss"].axes[0].get_ylim()[0] == 0

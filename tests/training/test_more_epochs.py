"""A finished training is given more epochs: it ends in the bits of one that was planned so from the beginning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steelman import checkpoint
from steelman.data import Digits
from steelman.defences import Plain
from steelman.experiments.recipe import load_recipe
from steelman.experiments.run import Run, train
from steelman.networks import MLP
from steelman.schedules import Constant, Cosine, Schedule
from steelman.training import Training, fit


def trained(folder: Path | None, schedule: Schedule, **settings: Any) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    torch.manual_seed(0)
    model: nn.Module = MLP(hidden=(8,), shape=(1, 8, 8), classes=10)
    training = Training(schedule=schedule, images=300, validation=50, **settings)
    log = fit(model, Digits().load("train"), Plain(), training, folder=folder, progress=False).log
    return model.state_dict(), [{key: value for key, value in line.items() if key != "seconds"} for line in log]


@pytest.mark.parametrize("schedule", [Cosine(), Constant()], ids=repr)
def test_it_ends_in_the_same_bits(tmp_path: Path, schedule: Schedule) -> None:
    trained(tmp_path, schedule, epochs=2)
    trained(tmp_path, schedule, epochs=3, ends=(2,))
    weights, log = trained(tmp_path, schedule, epochs=5, ends=(2, 3))
    planned, expected = trained(None, schedule, epochs=5, ends=(2, 3))
    assert log == expected
    assert all(torch.equal(value, planned[name]) for name, value in weights.items())
    at_once, _ = trained(None, schedule, epochs=5)
    assert torch.equal(weights["fc1.weight"], at_once["fc1.weight"]) == (schedule == Constant())


def test_each_part_runs_to_its_own_end() -> None:
    _, log = trained(None, Cosine(), epochs=4, ends=(2,), batch_size=150)  # two batches in an epoch
    rates = [line["lr"] for line in log[1:]]
    expected = [0.1 * Cosine()(done) for done in (1 / 4, 3 / 4, 5 / 8, 7 / 8)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ends": (5,), "epochs": 5}, "ends are epochs before the last, rising"),
        ({"ends": (3, 2)}, "ends are epochs before the last, rising"),
        ({"ends": (2,), "swa": 0.5}, "with swa, cannot go on"),
        ({"ends": (2,), "iterations": 50}, "by iterations, or with swa, cannot go on"),
    ],
)
def test_ends_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**settings)


def test_other_ends_than_those_of_the_run_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, Constant(), epochs=2)
    with pytest.raises(ValueError, match=r"another training.epochs \(2, now 4\)"):
        trained(tmp_path, Constant(), epochs=4, ends=(1,))


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(
        'data = "Digits"\ndefence = "Plain"\nnetwork = { kind = "MLP", hidden = [8] }\n'
        'training = { epochs = 1, images = 300, schedule = "Cosine" }\n'
    )
    return str(path)


def test_the_command_goes_on_with_a_finished_run_and_keeps_where_it_had_ended(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(epochs: int, runs: str = "runs") -> Run:
        return train(recipe, tmp_path / runs, None, [f"training.epochs={epochs}"])

    run(1)
    found = run(3)
    assert "tiny had ended after 1 epochs, and goes on" in capsys.readouterr().err
    assert load_recipe(found.folder / "recipe.toml").training.ends == (1,)
    before = found.checkpoint.stat().st_mtime_ns
    assert run(3).checkpoint.stat().st_mtime_ns == before
    assert not capsys.readouterr().err
    found = run(4)
    assert load_recipe(found.folder / "recipe.toml").training.ends == (1, 3)
    again = train(str(found.folder / "recipe.toml"), tmp_path / "again", None)
    ours, theirs = (checkpoint.load(each.folder / "last.safetensors")["nets"] for each in (found, again))
    assert all(torch.equal(ours["classifier"][name], theirs["classifier"][name]) for name in ours["classifier"])
    with pytest.raises(ValueError, match=r"another training.epochs and training.ends: give this one another --name"):
        run(2)


def test_more_epochs_for_a_run_that_was_stopped_are_refused(recipe: str, tmp_path: Path) -> None:
    found = train(recipe, tmp_path, None, ["training.epochs=2"], "stopped")
    log = found.folder / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"stopped holds a run with another training.epochs"):
        train(recipe, tmp_path, None, ["training.epochs=3"], "stopped")

"""Killed and started again, commands end in the bits of an uninterrupted one: the short form of `make soak`."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow
import pytest
import torch
from benchmarks.kills import started
from benchmarks.kills.chain import Moment, Reference, chain
from benchmarks.kills.same import differences
from benchmarks.kills.started import ENVIRONMENT
from pyarrow import parquet
from safetensors.torch import save_file

import forks

SMALL = ("--set", "network.hidden=[16]", "--set", "training.checkpoint_seconds=0")
TRAIN = ("train", "plain_digits_mlp", *SMALL, "--set")
RUN = "runs/plain_digits_mlp"
BATTERY = """
[attacks]
FGSM = { kind = "FGSM", eps = 0.1 }
PGD = { kind = "PGD", eps = 0.1, steps = 10 }
"""


def undisturbed(folder: Path, *commands: tuple[str, ...]) -> Path:
    """Commands in sequence in one other process: in this one, type checks change the digests of code."""
    folder.mkdir()
    (folder / "battery.toml").write_text(BATTERY)
    program = f"""
import sys
from steelman.cli.main import app
for words in {commands!r}:
    sys.argv[:] = ["__main__.py", *words]  # which tables remember
    app(standalone_mode=False)
"""
    process = forks.Popen([sys.executable, "-c", program], cwd=folder, env=ENVIRONMENT, stdout=forks.DEVNULL)
    assert process.wait() == 0
    return folder


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are killed need not import everything anew; `make soak` starts each from nothing."""
    monkeypatch.setattr(started, "subprocess", forks)


def killed(words: tuple[str, ...], whole: Path, *plan: Moment) -> None:
    """The command leaves in the folder "chain" after kills what it left in `whole`."""
    folder = whole.with_name("chain")
    found = chain([sys.executable, "-m", "steelman", *words], folder, Reference(whole, 6.0, 1.0), plan)
    assert found.problem == ""
    assert found.kills == len(plan)
    assert found.within
    assert differences(whole, folder) == []


@pytest.mark.usefixtures("forked")
@pytest.mark.xdist_group("forks")
def test_training_and_evaluation_are_killed(tmp_path: Path):
    train = (*TRAIN, "training.epochs=2")
    evaluate = ("evaluate", RUN, "--battery", "battery.toml", "--images", "60", "--batch-size", "5")
    whole = undisturbed(tmp_path / "whole", train, evaluate)
    evaluation = shutil.move(whole / RUN / "evaluation", tmp_path / "evaluation")
    (tmp_path / "chain").mkdir()
    shutil.copy(whole / "battery.toml", tmp_path / "chain")
    killed(train, whole, Moment(0.1, False), Moment(0.05, True))
    shutil.move(evaluation, whole / RUN / "evaluation")
    killed(evaluate, whole, Moment(0.1, True), Moment(0.3, False))


def test_what_differs_is_named(tmp_path: Path):
    def write(folder: Path, weight: float, seconds: float, success: bool) -> None:
        folder.mkdir()
        state = json.dumps({"log": [{"loss": weight, "seconds": seconds}]})
        tensors = {"weight": torch.tensor([weight]), "seconds": torch.tensor([seconds])}
        save_file(tensors, folder / "last.safetensors", metadata={"state": state})
        rows = {"image": [1, 0], "attack": ["clean"] * 2, "loss": [float("nan"), 1.0], "seconds": [seconds, 0.0]}
        table = pyarrow.table({**rows, "success": [success, True]})
        about = {"about": json.dumps({"seed": 0, "date": str(seconds)})}
        parquet.write_table(table.replace_schema_metadata(about), folder / "table.parquet")
        (folder / "log.jsonl").write_text(json.dumps({"loss": weight, "seconds": seconds}) + "\n")
        (folder / "results.json").write_text(json.dumps({"right": not success, "training time": f"{seconds} s"}))
        (folder / "sweep.csv").write_text(f"run,training seconds,accuracy\na,{seconds},{weight}\n")
        (folder / "recipe.toml").write_text(f"lr = {weight}\n")

    names = ("one", "later", "other")
    for name, values in zip(names, ((0.5, 1.0, True), (0.5, 2.0, True), (0.25, 1.0, False)), strict=True):
        write(tmp_path / name, *values)
    assert differences(tmp_path / "one", tmp_path / "later") == []
    assert differences(tmp_path / "one", tmp_path / "other") == [
        "last.safetensors: header state/log/0/loss",
        "last.safetensors: weight",
        "log.jsonl: line/0/loss",
        "recipe.toml: bytes",
        "results.json: /right",
        "sweep.csv: line 0 accuracy",
        "table.parquet: success",
    ]
    (tmp_path / "later" / "results.json").unlink()
    (tmp_path / "later" / "log.jsonl.7.partial").touch()
    (tmp_path / "later" / "table.parquet").write_bytes(b"PAR1")
    (tmp_path / "later" / ".tmpA1b2C3").touch()
    (tmp_path / "later" / "more.json").touch()
    missing, broken = "results.json: missing", "table.parquet: cannot be read: ArrowInvalid"
    told = differences(tmp_path / "one", tmp_path / "later")
    assert [each[: len(broken)] for each in told] == [
        ".tmpA1b2C3: left behind",
        "log.jsonl.7.partial: left behind",
        "more.json: too much",
        missing,
        broken,
    ]

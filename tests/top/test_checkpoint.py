"""Checkpoints: complete or absent, as they were written, and nothing unpickled."""

import json
import math
import os
import pickle
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from steelman import checkpoint
from steelman.data import split_off
from steelman.experiments.run import Run, train
from steelman.training import play

OLD = Path(__file__).parents[1] / "data" / "old-run"
"""Two epochs of plain_digits_mlp, written by the version whose checkpoints had no digest and no description."""


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


STATE = {
    "nets": {"classifier": {"fc.weight": torch.randn(3, 4), "count": torch.tensor(7), "none": torch.zeros(0, 2)}},
    "optimiser": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
    "a/b": torch.ones(1),
    "a": {"b": torch.zeros(1), "$tensor": "not one"},
    "kinds": [
        torch.zeros(2, dtype=kind) for kind in (torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8)
    ],
    "plain": [None, True, 1, 0.1 + 0.2, math.inf, -math.inf, math.nan, "text", (), []],
}


def test_what_is_written_is_read(tmp_path: Path):
    checkpoint.save(tmp_path / "deep" / "a.safetensors", STATE)
    assert equal(checkpoint.load(tmp_path / "deep" / "a.safetensors"), STATE)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.safetensors"]


def test_tensors_that_share_memory_or_are_not_contiguous_are_kept(tmp_path: Path):
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "turned": whole.t(), "same": whole, "part": whole[:, 1]}
    checkpoint.save(tmp_path / "a", state)
    assert equal(checkpoint.load(tmp_path / "a"), state)


def test_values_that_a_checkpoint_cannot_hold_are_named(tmp_path: Path):
    with pytest.raises(TypeError, match=r"cannot hold a Path|cannot hold a PosixPath.*\(a/1\)"):
        checkpoint.save(tmp_path / "a", {"a": [0, tmp_path]})


@pytest.mark.parametrize("broken", ["save", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"x": torch.zeros(3)})

    def fail(*args: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch if broken == "save" else os, broken, fail)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"x": torch.ones(3)})
    monkeypatch.undo()
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]
    assert equal(checkpoint.load(path), {"x": torch.zeros(3)})
    checkpoint.save(path, {"x": torch.ones(3)})
    assert equal(checkpoint.load(path), {"x": torch.ones(3)})


def test_the_same_values_make_the_same_bytes(tmp_path: Path):
    for name in "abcdef":
        checkpoint.save(tmp_path / name, STATE)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_permissions_of_any_other(mask: int, mode: int, tmp_path: Path):
    before = os.umask(mask)
    try:
        checkpoint.save(tmp_path / "a", STATE)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("change", [0x01, 0xFF])
def test_every_byte_that_is_not_as_it_was_written_is_refused_by_name(change: int, tmp_path: Path):
    """Of the header, its padding, the digest and the tensors."""
    path = tmp_path / "flipped.safetensors"
    checkpoint.save(path, {"x": torch.arange(5), "net": {"w": torch.ones(3, 2)}, "log": [{"loss": 0.5}]})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"flipped\.safetensors is (not a readable|a safetensors file, but not a)"):
            checkpoint.load(path)
    path.write_bytes(whole)
    assert list(checkpoint.load(path)) == ["x", "net", "log"]


def test_every_truncation_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "good"
    checkpoint.save(path, {"x": torch.arange(5)})
    whole, cut = path.read_bytes(), tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.safetensors is not a readable checkpoint"):
            checkpoint.load(cut)


def test_foreign_files_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "foreign.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*foreign\.safetensors"):
        checkpoint.load(path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"foreign\.safetensors is a safetensors file, but not a checkpoint"):
        checkpoint.load(path)
    for state in ("{", json.dumps({"x": {"$tensor": "y"}})):
        safetensors.torch.save_file({"x": torch.zeros(1)}, path, {"format": checkpoint.BEFORE, "state": state})
        with pytest.raises(ValueError, match=r"foreign\.safetensors is not a readable checkpoint"):
            checkpoint.load(path)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_unpickled(tmp_path: Path):
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"bomb\.safetensors"):
        checkpoint.load(path)


def test_a_run_of_an_older_version_opens_and_is_left_as_it_is(tmp_path: Path):
    run = Run.open(OLD)
    _, held = split_off(run.data("train", None), 0.1)
    (batch,) = held.in_order(len(held))
    right = run.network(held)(batch.x).argmax(1) == batch.y
    assert right.double().mean().item() == run.log[2]["clean"] == 40 / 130 > run.log[1]["clean"]
    shutil.copytree(OLD, tmp_path / "old-run")
    before = {path: path.read_bytes() for path in (tmp_path / "old-run").glob("*.safetensors")}
    again = train(str(OLD / "recipe.toml"), tmp_path, None, called="old-run")
    assert again.log == run.log
    assert {path: path.read_bytes() for path in (tmp_path / "old-run").glob("*.safetensors")} == before
    with pytest.raises(ValueError, match=r"holds a run with another training\.seed"):
        train(str(OLD / "recipe.toml"), tmp_path, None, ["training.seed=1"], called="old-run")


def as_before(path: Path) -> None:
    """Write a checkpoint anew as the older version did; of its fingerprint, that version knew the settings alone."""
    state = checkpoint.load(path)
    state["fingerprint"] = {key: said for key, said in state["fingerprint"].items() if "." in key} | {"data": "old"}
    tensors: dict[str, torch.Tensor] = {}
    header = {"format": checkpoint.BEFORE, "state": json.dumps(checkpoint._pack(state, "", tensors))}
    safetensors.torch.save_file(tensors, path, header)


def test_an_older_training_that_was_stopped_goes_on_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = train(str(OLD / "recipe.toml"), tmp_path, None, called="whole").folder
    loop, batches = sys.modules["steelman.training.loop"], []

    def stopped(*args: Any) -> dict[str, float]:
        batches.append(1)
        if len(batches) == 30:
            os.kill(os.getpid(), signal.SIGINT)
        return play(*args)

    monkeypatch.setattr(loop, "play", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(str(OLD / "recipe.toml"), tmp_path, None, called="stopped")
    as_before(tmp_path / "stopped" / "last.safetensors")
    train(str(OLD / "recipe.toml"), tmp_path, None, called="stopped")
    ours, theirs = (checkpoint.load(folder / "best.safetensors") for folder in (tmp_path / "stopped", whole))
    assert equal(ours, theirs)
    assert len(batches) > 30
    torch.testing.assert_close(theirs["classifier"], checkpoint.load(OLD / "best.safetensors")["classifier"])

"""Checkpoints: complete or absent, and nothing unpickled."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from steelman.training import checkpoint


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


def test_tensors_that_share_memory_or_lie_crooked_are_no_trouble(tmp_path: Path):
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "turned": whole.t(), "same": whole, "part": whole[:, 1]}
    checkpoint.save(tmp_path / "a", state)
    assert equal(checkpoint.load(tmp_path / "a"), state)


def test_what_cannot_be_held_is_named(tmp_path: Path):
    with pytest.raises(TypeError, match=r"cannot hold a Path|cannot hold a PosixPath.*\(a/1\)"):
        checkpoint.save(tmp_path / "a", {"a": [0, tmp_path]})


@pytest.mark.parametrize("broken", ["save_file", "replace"])
def test_a_write_that_fails_leaves_the_old_file(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"x": torch.zeros(3)})

    def fail(*args: Any, **options: Any) -> None:
        Path(str(path) + ".partial").write_bytes(b"half of")
        raise OSError("no space left on device")

    monkeypatch.setattr(*((safetensors.torch, broken) if broken == "save_file" else (checkpoint.os, broken)), fail)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"x": torch.ones(3)})
    monkeypatch.undo()
    assert equal(checkpoint.load(path), {"x": torch.zeros(3)})
    checkpoint.save(path, {"x": torch.ones(3)})
    assert equal(checkpoint.load(path), {"x": torch.ones(3)})


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
        safetensors.torch.save_file({"x": torch.zeros(1)}, path, {"format": checkpoint.FORMAT, "state": state})
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

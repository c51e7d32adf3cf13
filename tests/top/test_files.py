"""Files that are written whole, and folders in which one process works at a time."""

import fcntl
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import forks
from steelman import Batch, Plain, Training, checkpoint, fit
from steelman.data import Digits
from steelman.defences import Objective
from steelman.experiments import run as runs
from steelman.experiments.run import Run, train
from steelman.experiments.sweep import sweep
from steelman.files import replacing, working_in, write_text
from steelman.networks import MLP
from steelman.training.prepare import SoftLabels

RECIPE = """
data = "Digits"
network = { kind = "MLP", hidden = [8] }
defence = "Plain"
training = { epochs = 2, batch_size = 32, images = 100, optimiser = { kind = "SGD", lr = 0.05 } }
"""


def in_use(folder: Path) -> bool:
    """Whether somebody holds it, asked of the operating system."""
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# --- files


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_text_is_there_whole_or_not_at_all(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "before\n")

    def fail(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "after\n")
    monkeypatch.undo()
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "before\n"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_permissions_of_any_other(mask: int, mode: int, tmp_path: Path):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "a") as partial:
            partial.write_text("whole")
            partial.chmod(0o400)  # as some writers do
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_every_file_of_a_training_has_them(tmp_path: Path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    before = os.umask(0o022)
    try:
        folder = train(str(tmp_path / "tiny.toml"), tmp_path, None).folder
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes.keys() >= {"recipe.toml", "best.safetensors", "last.safetensors", "log.jsonl"}
    assert set(modes.values()) == {0o644}


# --- folders

HOLD = """
import sys, time
from pathlib import Path
from steelman.files import working_in
folder = Path(sys.argv[1])
with working_in(folder):
    (folder / "half.txt.7.partial").write_text("ha")
    (folder / "held").touch()
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    """Another process, which works in the folder for some seconds."""
    begun: list[forks.Popen] = []

    def hold(folder: Path, seconds: float) -> forks.Popen:
        begun.append(forks.Popen([sys.executable, "-c", HOLD, str(folder), str(seconds)]))
        while not (folder / "held").exists():
            assert begun[0].poll() is None
            time.sleep(0.01)
        (folder / "held").unlink()
        return begun[0]

    yield hold
    for process in begun:
        process.kill()
        process.wait()


@pytest.mark.xdist_group("forks")
def test_the_second_process_waits_and_says_for_whom(holder: Any, tmp_path: Path):
    process = holder(tmp_path, 1.0)
    start = time.monotonic()
    told = rf"in use by process {process.pid} on .* since .*\(.*1\.0\): waiting until that ends"
    with ExitStack() as stack:
        with pytest.warns(UserWarning, match=told):
            stack.enter_context(working_in(tmp_path))
        assert time.monotonic() - start > 0.5
        assert in_use(tmp_path)
        assert not list(tmp_path.glob("*.partial"))
    assert process.wait() == 0
    assert not in_use(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.xdist_group("forks")
def test_a_holder_that_was_killed_holds_nothing(holder: Any, tmp_path: Path):
    process = holder(tmp_path, 60.0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".lock.json").exists()
    with working_in(tmp_path):  # without a warning, which would be an error
        assert not list(tmp_path.glob("*.partial"))
        assert f'"process": {os.getpid()}' in (tmp_path / ".lock.json").read_text()


def test_one_process_may_hold_a_folder_several_times(tmp_path: Path):
    with working_in(tmp_path):
        (tmp_path / "mine.partial").touch()
        with working_in(tmp_path):
            assert in_use(tmp_path)
        assert in_use(tmp_path)
        assert (tmp_path / "mine.partial").exists()
        assert (tmp_path / ".lock.json").exists()
    assert not in_use(tmp_path)
    with pytest.raises(ZeroDivisionError), working_in(tmp_path):
        print(1 / 0)
    assert not in_use(tmp_path)


class Asking(Objective):
    """Plain training that notes which of some folders are in use."""

    def __init__(self, *folders: Path) -> None:
        self.folders, self.found = folders, set[Path]()

    def __repr__(self) -> str:
        return "Asking()"

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        self.found |= {folder for folder in self.folders if (folder / ".lock").exists() and in_use(folder)}
        return Plain()(model, batch)


def test_a_training_holds_its_folder(tmp_path: Path):
    asking = Asking(tmp_path, tmp_path / "other")
    fit(MLP(shape=(1, 8, 8)), Digits().load("train"), asking, Training(epochs=1), folder=tmp_path, progress=False)
    assert asking.found == {tmp_path}
    assert not in_use(tmp_path)


def test_a_preparation_holds_its_folder(tmp_path: Path):
    class Net(MLP):
        held = False

        def forward(self, x: Tensor) -> Tensor:
            Net.held = in_use(tmp_path)
            return super().forward(x)

    SoftLabels()(Digits().load("test"), Net(shape=(1, 8, 8)), folder=tmp_path)
    assert Net.held
    assert not in_use(tmp_path)


def test_a_sweep_holds_its_folder_and_each_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tiny.toml").write_text(RECIPE + '[evaluation]\nimages = 20\nattacks = { FGSM = "FGSM" }')
    found: list[set[str]] = []
    work = runs.fit

    def asked(*args: Any, **how: Any) -> Any:
        found.append({path.parent.name for path in tmp_path.rglob(".lock") if in_use(path.parent)})
        return work(*args, **how)

    monkeypatch.setattr(runs, "fit", asked)
    sweep(str(tmp_path / "tiny.toml"), ["training.seed=1,2"], tmp_path, say=lambda told: None)
    assert found == [{"tiny-sweep", f"training.seed={seed}"} for seed in (1, 2)]
    assert not in_use(tmp_path / "tiny-sweep")


@pytest.mark.filterwarnings("ignore:.*in use by process:UserWarning")
@pytest.mark.xdist_group("forks")
def test_two_trainings_in_one_folder_are_one(tmp_path: Path):
    """The first waits until the folder is free. Then both start, and the second of them finds nothing left to do."""
    (tmp_path / "tiny.toml").write_text(RECIPE)
    both = tmp_path / "both" / "tiny"
    command = [sys.executable, "-m", "steelman", "train", str(tmp_path / "tiny.toml"), "--runs", str(both.parent)]
    errors = tmp_path / "errors"
    with errors.open("w") as file, working_in(both):
        process = forks.Popen(command, stdout=forks.DEVNULL, stderr=file)
        deadline = time.monotonic() + 60
        while f"in use by process {os.getpid()} on" not in errors.read_text():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        assert sorted(path.name for path in both.iterdir()) == [".lock", ".lock.json"]
    train(str(tmp_path / "tiny.toml"), both.parent, None)
    assert process.wait(60) == 0
    alone = train(str(tmp_path / "tiny.toml"), tmp_path / "alone", None)
    assert (both / "best.safetensors").read_bytes() == (alone.folder / "best.safetensors").read_bytes()
    assert len(Run.open(both).log) == len(alone.log) == 3


def test_a_thread_waits_for_another(tmp_path: Path):
    def work() -> None:
        with ExitStack() as stack:
            with pytest.warns(UserWarning, match="in use by process"):
                stack.enter_context(working_in(tmp_path))
            order.append("thread")

    order: list[str] = []
    with ThreadPoolExecutor() as threads:
        with working_in(tmp_path):
            waiting = threads.submit(work)
            time.sleep(0.5)
            order.append("first")
        waiting.result(10)
    assert order == ["first", "thread"]


# --- a recipe's run


@pytest.mark.xdist_group("forks")
def test_a_kill_while_the_recipe_is_written_leaves_a_folder_that_goes_on(tmp_path: Path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    code = f"""
import os, signal
from pathlib import Path
from steelman.experiments.run import train

def die(descriptor):
    if "recipe.toml" in os.readlink(f"/proc/self/fd/{{descriptor}}"):
        os.kill(os.getpid(), signal.SIGKILL)

os.fsync = die
train("{tmp_path}/tiny.toml", Path("{tmp_path}"), None)
"""
    assert forks.Popen([sys.executable, "-c", code]).wait() == -signal.SIGKILL
    (left,) = (tmp_path / "tiny").glob("*.partial")
    assert re.fullmatch(r"recipe\.toml\.\d+\.partial", left.name)
    assert not (tmp_path / "tiny" / "recipe.toml").exists()
    assert len(train(str(tmp_path / "tiny.toml"), tmp_path, None).log) == 3
    assert not left.exists()


@pytest.mark.parametrize("text", ["", "data = ", 'data = "Digits"\nnetwork = { kind = "MLP" }\n'])
def test_half_a_recipe_of_an_older_version_is_written_anew_where_nothing_is_trained(text: str, tmp_path: Path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "recipe.toml").write_text(text)
    run = train(str(tmp_path / "tiny.toml"), tmp_path, None)
    assert Run.open(run.folder).recipe == run.recipe
    weights = checkpoint.trained_weights(run.folder)
    (run.folder / "recipe.toml").write_text(text)
    with pytest.raises(ValueError, match=r"tiny/recipe\.toml"):
        train(str(tmp_path / "tiny.toml"), tmp_path, None, ["training.seed=1"])
    found = checkpoint.trained_weights(run.folder)
    assert all(torch.equal(found[name], weights[name]) for name in weights)

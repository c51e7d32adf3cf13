"""A folder that cannot be written and a disk that is full are found before work begins, by everything that writes."""

import errno
import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from steelman import FGSM, Plain, Training, evaluate, fit
from steelman.checkpoint import room_for
from steelman.files import REPORT, ROOM, writable

Usage = namedtuple("Usage", "total used free")
RECIPE = """
data = "Digits"
network = { kind = "MLP", hidden = [16] }
defence = "Plain"
training = { epochs = 1, batch_size = 64 }
[evaluation]
images = 20
[evaluation.attacks]
FGSM = { kind = "FGSM", eps = 0.1 }
"""


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how many bytes are free on every disk."""

    def say(count: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40 - count, count))

    return say


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets every write to a disk fail with this error."""

    def say(number: int) -> None:
        def sync(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", sync)

    return say


def test_a_trial_leaves_nothing_behind_and_makes_no_folder(tmp_path: Path):
    writable(tmp_path / "a" / "b", 1000)
    writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "runs" / "x"):
        with pytest.raises(
            NotADirectoryError, match=r"nothing can be written to .*, since .*file is a file: give another"
        ):
            writable(folder)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=r"nothing can be written to .*Permission denied"):
            writable(tmp_path / "runs")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_is_told_in_words(number: int, tmp_path: Path, failing):
    failing(number)
    with pytest.raises(
        OSError, match=rf"nothing can be written to .*runs \({os.strerror(number)}\): give another folder"
    ):
        writable(tmp_path / "runs")


def test_a_disk_has_room_for_what_is_needed_and_a_little_more(tmp_path: Path, free):
    free(10 * 2**20)
    writable(tmp_path, 10 * 2**20 - ROOM)
    with pytest.raises(
        OSError, match=r"only 10 MB are free at .*, and 14 MB may be needed: make room, or give another"
    ):
        writable(tmp_path, 10 * 2**20)
    free(3 * 2**30)
    with pytest.raises(OSError, match=r"only 3 GB are free at .*, and 5 GB may be needed"):
        writable(tmp_path, 5 * 2**30)


def test_a_file_system_that_does_not_tell_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    writable(tmp_path, 1000)


def test_a_training_needs_room_for_its_checkpoints(tmp_path: Path, free):
    network = nn.Linear(1000, 2**18 // 1000, bias=False)
    size = 4 * network.weight.numel()
    free(ROOM + 5 * size)
    room_for(network, tmp_path)
    with pytest.raises(OSError, match="may be needed"):
        room_for(network, tmp_path, 2)
    free(ROOM + 2 * size)
    with pytest.raises(OSError, match="may be needed"):
        room_for(network, tmp_path)
    (tmp_path / "last.safetensors").touch()
    room_for(network, tmp_path)  # what is replaced is there already


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with its finished, evaluated run."""
    import steelman.experiments.compare  # noqa: F401 (its transfer is to be watched)
    from steelman.experiments.assess import attacked, battery_of
    from steelman.experiments.run import train
    from steelman.report.export import write

    root = tmp_path_factory.mktemp("root")
    (root / "tiny.toml").write_text(RECIPE)
    run = train(str(root / "tiny.toml"), root / "runs", None)
    attacked(run.subject(None), battery_of(run.subject(None)), folder=run.results)
    write(run.results, [run.entry()])
    return root


WORK = (
    ("steelman.training.loop", "play"),
    ("steelman.experiments.assess", "checkup"),
    ("steelman.evaluation.evaluation", "Task"),
    ("steelman.experiments.compare", "transfer"),
)
"""Where training, evaluation and transfer begin."""
WRITERS = {
    "demo": "demo --runs OUT",
    "train": "train TINY --runs OUT",
    "attack-train": "attack-train RUN L2LDA --runs OUT",
    "evaluate": "evaluate RUN --folder OUT",
    "sweep": "sweep TINY --vary training.seed=1,2 --runs OUT",
    "compare": "compare RUN TWIN --transfer FGSM --folder OUT",
}


@pytest.mark.parametrize(
    ("verb", "what"), [*((verb, "full") for verb in WRITERS), ("train", "a file"), ("evaluate", "fails")]
)
def test_every_verb_checks_the_disk_before_it_works(
    verb: str, what: str, root: Path, tmp_path: Path, call, free, failing, monkeypatch: pytest.MonkeyPatch
):
    twin = tmp_path / "twin"
    shutil.copytree(root / "runs" / "tiny", twin)
    out = tmp_path / "out" / "deep"
    if what == "a file":
        (tmp_path / "out").touch()
    elif what == "full":
        free(ROOM // 2)
    else:
        failing(errno.ENOSPC)
    for module, name in WORK:
        monkeypatch.setattr(sys.modules[module], name, lambda *_, **__: pytest.fail("work has begun"))
    places = {"TINY": root / "tiny.toml", "RUN": root / "runs" / "tiny", "TWIN": twin, "OUT": out}
    code, _, err = call(*(places.get(word, word) for word in WRITERS[verb].split()))
    assert code == 2, err
    begin = {
        "a file": "nothing can be written to",
        "full": "only 2 MB are free at",
        "fails": "nothing can be written to",
    }
    assert err.startswith(f"steelman: {begin[what]}")
    assert err.count("\n") == 1
    assert "details" not in err
    assert not out.exists()


def test_functions_check_the_disk_before_they_work(tmp_path: Path, free):
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (torch.rand(8, 1, 2, 2), torch.arange(8) % 2)
    free(0)
    for work in (
        lambda: fit(model, data, Plain(), Training(epochs=1), folder=tmp_path / "a", progress=False),
        lambda: evaluate(model, data, [FGSM(eps=0.1)], folder=tmp_path / "b", progress=False),
    ):
        with pytest.raises(OSError, match="only 0 MB are free"):
            work()
    assert list(tmp_path.iterdir()) == []
    assert REPORT > ROOM


def test_a_kill_while_a_folder_is_tried_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[list[Path]] = []
    monkeypatch.setattr(os, "fsync", lambda _: there.append(list(tmp_path.rglob("*"))))
    writable(tmp_path / "run")
    assert there == [[]]

"""An evaluation's folder with several processes: no rows are lost, and no file is half written."""

import os
import sys
from pathlib import Path

import pytest
import torch

import forks
from steelman.attacks import FGSM
from steelman.data import Digits
from steelman.evaluation import evaluate
from steelman.files import replacing, working_in
from steelman.networks import MLP
from steelman.report import Entry, write
from steelman.table import Evaluation
from steelman.table.places import table_path

SCRIPT = """
import sys, torch
from steelman.attacks import DDN, PGD
from steelman.data import Digits
from steelman.evaluation import evaluate
from steelman.networks import MLP
torch.manual_seed(0)
attacks = {"PGD": PGD(eps=0.1, steps=10)} if sys.argv[1] == "PGD" else {"DDN": DDN(steps=20)}
test = Digits().load("test").subset(torch.arange(40))
table = evaluate(MLP(shape=test.shape).eval(), test, attacks, folder=sys.argv[2], batch_size=8, progress=False)
print(sorted(table.attacks), len(table))
"""


@pytest.mark.xdist_group("forks")
def test_evaluations_in_one_folder_all_end_with_all_rows(tmp_path: Path):
    """Two with the same attack, and one with another."""
    calls = [
        forks.Popen([sys.executable, "-c", SCRIPT, name, tmp_path], stdout=forks.PIPE, stderr=forks.PIPE, text=True)
        for name in ("PGD", "PGD", "DDN")
    ]
    output = [call.communicate(timeout=240) for call in calls]
    assert [call.returncode for call in calls] == [0, 0, 0], output
    table = Evaluation.load(table_path(tmp_path))
    assert (sorted(table.attacks), len(table)) == (["DDN", "PGD"], 40 * 3)
    assert table.whole("PGD")
    assert table.whole("DDN")
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "parts").exists()


@pytest.fixture(scope="module")
def entry() -> Entry:
    torch.manual_seed(0)
    test = Digits().load("test").subset(torch.arange(10))
    return Entry("model", evaluate(MLP(shape=test.shape).eval(), test, [FGSM(eps=0.1)], progress=False))


def test_everything_that_is_written_has_the_users_permissions(entry: Entry, tmp_path: Path):
    before = os.umask(0o027)
    try:
        written = write(tmp_path, [entry])
    finally:
        os.umask(before)
    assert {path.name for path in written} >= {
        "table.parquet",
        "results.json",
        "report.html",
        "report.md",
        "measures.csv",
    }
    assert {oct(path.stat().st_mode & 0o777) for path in written} == {"0o640"}


def test_an_interrupted_write_keeps_the_old_file(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever of the files it is; a process that is killed leaves its temporary file, and the next removes it."""
    written = write(tmp_path, [entry], on="2001-01-01")
    before = {path: path.read_bytes() for path in written}
    replaced = []

    def replace(partial: str | Path, path: str | Path) -> None:
        replaced.append(Path(path))
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", replace)
    for count, path in enumerate(written):
        with pytest.raises(OSError, match="no space"), replacing(path) as partial:
            partial.write_text("half")
        assert path.read_bytes() == before[path]
        assert len(replaced) == count + 1
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, [entry], on="2002-02-02")
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in written} == before
    partial = tmp_path / f"report.html.{os.getpid()}.partial"
    partial.write_text("half")
    with working_in(tmp_path):
        assert not partial.exists()

"""The complete loops in examples/ run as they stand there; on few of their images, which is enough to see that."""

import runpy
from pathlib import Path

import pytest
import torch

from steelman.data import Digits, InMemory
from steelman.data.dataset import Split

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
LOOPS = {"lightning_trades": "lightning", "accelerate_pgd": "accelerate"}
"""Loops of libraries that may be missing."""


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")  # Lightning's
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_ends_in_figures(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    if path.stem in LOOPS:
        pytest.importorskip(LOOPS[path.stem])
    monkeypatch.chdir(tmp_path)  # where some save
    whole = Digits.load

    def few(self: Digits, split: Split, folder: Path | None = None) -> InMemory:
        found = whole(self, split, folder)
        return found.subset(torch.arange(0, len(found), 25))

    monkeypatch.setattr(Digits, "load", few)
    runpy.run_path(str(path), run_name="__main__")
    assert "accuracy" in capsys.readouterr().out
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 45

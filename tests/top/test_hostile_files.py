"""Files from somebody else: nothing is read or written outside of the folders that the user named."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from hostile import RECIPE, ran, swept, written
from steelman.evaluation.store import EvaluationFolder
from steelman.experiments.compare import _left
from steelman.experiments.run import Run
from steelman.experiments.sweep_results import SweepResults
from steelman.measures.line import Axis, Line, Point
from steelman.report.charts import lines_chart
from steelman.report.plots import draw, save_figure, svg
from steelman.table.places import table_path
from steelman.table.table import Evaluation

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", ".", "..", "a/.."])
def test_runs_stay_in_their_folder(name: str, place: Path, call: Callable[..., Any]) -> None:
    recipe = written(place, RECIPE)
    before = sorted(place.rglob("*"))
    for words in (
        ("train", recipe, "--name", name),
        ("sweep", recipe, "--name", name, "--vary", "training.seed=1,2"),
        ("attack-train", "runs/hostile", "L2LDA", "--trust", "theirs", "--name", name),
    ):
        code, _, err = call(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert f"{name!r} is no name of a folder in runs: give one without '..', and no absolute path" in err
    assert [path for path in sorted(place.rglob("*")) if path.name not in ("RAN", "__pycache__")] == [
        path for path in before if path.name != "RAN"
    ]


@pytest.mark.parametrize("run", ["../hostile", "/tmp", "..", "a/b", ""])
def test_a_sweeps_file_names_folders_in_it(run: str, place: Path, call: Callable[..., Any]) -> None:
    swept(place)
    file = place / "runs" / "plain-sweep" / "sweep.json"
    told = json.loads(file.read_text())
    told["networks"][0]["run"] = run
    file.write_text(json.dumps(told))
    code, _, err = call("sweep", written(place, RECIPE), "--vary", "training.seed=1,2", "--against", file.parent)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{run!r} is no name of a folder in it" in err


def test_comparing_builds_no_network(good: Path, place: Path, call: Callable[..., Any], monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    for name in ("network", "data", "subject", "player"):
        monkeypatch.setattr(Run, name, refuse)
    code, _, err = call("compare", good / "runs" / "good", "runs/hostile", "--folder", "both")
    assert (code, err) == (0, "")
    assert not ran(place)
    told = json.loads((place / "both" / "results.json").read_text())["models"]
    assert told["hostile"]["info"]["network"] == "theirs:net [8]"
    assert told["hostile"]["training"]
    assert (place / "both" / "report.html").is_file()


@pytest.mark.parametrize("name", [".lock", ".lock.json"])
def test_no_lock_leads_to_another_file(name: str, good: Path, place: Path, call: Callable[..., Any]) -> None:
    (place / "precious").write_text("kept")
    (place / "here").mkdir()
    (place / "here" / name).symlink_to(place / "precious")
    code, _, err = call("evaluate", good / "runs" / "good", "--folder", "here")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{Path('here') / name} is a symbolic link" in err
    assert (place / "precious").read_text() == "kept"


def test_no_table_leads_out_of_its_folder(good: Path, place: Path) -> None:
    table = Evaluation.load(good / "runs" / "good" / "evaluation" / "table.parquet")
    hostile = table.replaced(space="x/../../out")
    with pytest.raises(ValueError, match=r"there is no space 'x/../../out'; there are pixels, preprocessed"):
        table_path(place / "here", hostile.space)
    hostile.save(place / "here" / "table.parquet")
    with pytest.raises(ValueError, match=r"there is no space 'x/../../out'"):
        EvaluationFolder(place / "here", "pixels").read({})
    assert not (place / "out.parquet").exists()


def test_no_picture_runs_latex(tmp_path: Path) -> None:
    """As a file `matplotlibrc` in the working directory could ask."""
    line = Line((Point(0.0, 1.0), Point(1.0, 0.5)), Axis("radius"), Axis("accuracy"))
    with matplotlib.rc_context({"text.usetex": True, "text.latex.preamble": r"\input{no such file}"}):
        figure = draw(lines_chart({r"\input": line}))
        assert "<svg" in svg(figure, "salt")
        save_figure(figure, tmp_path / "line.png")


@pytest.mark.parametrize("file", ["results.json", "sweep.json"])
def test_what_programs_read_is_checked(file: str, good: Path, place: Path) -> None:
    left = place / "left"
    shutil.copytree(good / "runs" / "good" / "evaluation", left)
    swept(place)
    path = left / file if file == "results.json" else place / "runs" / "plain-sweep" / file
    whole = json.loads(path.read_text())
    use: Callable[[], object] = (
        partial(_left, left) if file == "results.json" else partial(SweepResults.load, path.parent)
    )
    inner = next(iter(whole["models"].values())) if file == "results.json" else whole["networks"][0]
    wrong = ["", "{", "[]", "3", "null", "[" * 100000, "{}"]
    keys = {"models", "checkup", "training", "info", "recipe", "evaluation", "networks", "run", "values", "measures"}
    for place_of in (whole, inner):
        for key in keys & place_of.keys():
            before = place_of[key]
            for value in ({}, [3], 3, "x", [[]]):
                place_of[key] = value
                wrong.append(json.dumps(whole))
            del place_of[key]
            wrong.append(json.dumps(whole))
            place_of[key] = before
    told = []
    for text in wrong:
        path.write_text(text)
        try:  # what is not read may be anything
            use()
        except ValueError as error:
            told.append(str(error))
    assert len(told) >= 20
    assert all(str(path.parent) in text and "\n" not in text for text in told)

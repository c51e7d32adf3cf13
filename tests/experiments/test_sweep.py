"""A sweep from its recipe to the comparison of two: what is trained, what is kept, and what is refused before."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steelman.experiments.recipe import load_recipe
from steelman.experiments.sweep import sweep
from steelman.experiments.sweep_results import EvaluationOptions, SweepResults, SweptNetwork
from steelman.measures import Measure, measures
from steelman.table import Evaluation
from steelman.training import trained_weights

RECIPE = """
data = "Digits"
network = { kind = "MLP", hidden = [16] }
defence = "Plain"
training = { epochs = 1, batch_size = 64, optimiser = { kind = "Adam", lr = 0.02 } }
[evaluation]
images = 40
[evaluation.attacks]
"FGSM .05" = { kind = "FGSM", eps = 0.05 }
"FGSM .1" = { kind = "FGSM", eps = 0.1 }
"""
VARY = "training.optimiser.lr"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, and its sweep over two rates, and one with which training diverges."""
    root = tmp_path_factory.mktemp("root")
    (root / "tiny.toml").write_text(RECIPE)
    lines = []
    found = sweep(str(root / "tiny.toml"), [f"{VARY}=0.02,1e30,0.005"], root / "runs", say=lines.append)
    assert found == SweepResults.load(root / "runs" / "tiny-sweep")
    assert len(lines) == 3
    return root


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """A copy of the sweep, which a test may go on with."""
    shutil.copytree(root / "runs", tmp_path / "runs")
    shutil.copy(root / "tiny.toml", tmp_path)
    return tmp_path / "runs" / "tiny-sweep"


def test_each_value_has_its_run_and_its_measures(root: Path):
    swept = SweepResults.load(root / "runs" / "tiny-sweep")
    assert [each.values for each in swept.networks] == [{VARY: "0.005"}, {VARY: "0.02"}, {VARY: repr(1e30)}]
    assert swept.measure == "robust accuracy, Linf 0.05"
    for each in swept.networks[:2]:
        run = swept.folder / each.run
        assert load_recipe(run / "recipe.toml").training.optimiser.lr == float(each.values[VARY])
        assert each.measures == measures(Evaluation.load(run / "evaluation" / "table.parquet"))
        assert each.measures["clean accuracy"].count == 40
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert each.seconds == sum(line.get("seconds", 0) for line in log) > 0
    slow, fast = (trained_weights(swept.folder / each.run) for each in swept.networks[:2])
    assert any((slow[key] != fast[key]).any() for key in slow)


def test_a_training_that_diverges_is_reported_and_the_others_continue(root: Path):
    failed = SweepResults.load(root / "runs" / "tiny-sweep").networks[2]
    assert "epoch 1" in failed.failed
    assert failed.measures == {}


def test_the_curve_the_spreadsheet_and_the_picture_say_the_same(root: Path):
    swept = SweepResults.load(root / "runs" / "tiny-sweep")
    (line,) = swept.curves().values()
    rows = list(csv.DictReader((swept.folder / "sweep.csv").read_text().splitlines()))
    assert [row[VARY] for row in rows] == ["0.005", "0.02", repr(1e30)]
    assert {(point.name, point.x, point.y) for point in line.points} == {
        (row[VARY], float(row["clean accuracy"]), float(row[swept.measure])) for row in rows[:2]
    }
    assert (rows[2]["clean accuracy"], bool(rows[2]["failed"])) == ("", True)
    for kind in ("png", "svg"):
        assert (swept.folder / f"robustness.{kind}").stat().st_size > 5000


def test_another_call_trains_only_what_is_new_and_compares(folder: Path, call):
    runs, recipe = folder.parent, folder.parents[1] / "tiny.toml"
    logs = {path: path.stat().st_mtime_ns for path in folder.glob("*/log.jsonl") if "1e+30" not in str(path)}
    weights = {path: path.stat().st_mtime_ns for path in folder.glob("*/best.safetensors") if "1e+30" not in str(path)}
    tables = {path: path.stat().st_mtime_ns for path in folder.glob("*/evaluation/table.parquet")}
    assert len(logs) == len(weights) == len(tables) == 2
    shutil.copytree(folder, runs / "other")
    words = ("sweep", recipe, "--runs", runs, "--vary", f"{VARY}=0.01", "--measure", "accuracy, FGSM .1")
    code, out, err = call(*words, "--against", runs / "other")
    assert (code, err) == (1, ""), "one still diverges"
    for path, when in (logs | weights | tables).items():
        assert path.stat().st_mtime_ns == when, path
    swept = SweepResults.load(folder)
    assert [each.values[VARY] for each in swept.networks] == ["0.005", "0.01", "0.02", repr(1e30)]
    assert swept.measure == "accuracy, FGSM .1"
    assert re.search(r"lr=0.01: clean accuracy \d+\.\d+ % ", out)
    assert re.search(r"lr=1e\+30 failed: ", out)
    assert "at equal clean accuracy" in out
    (found,) = swept.against(SweepResults.load(runs / "other")).values()
    assert not isinstance(found, str)
    ours, theirs = (
        next(iter(each.curves(swept.measure).values())) for each in (swept, SweepResults.load(runs / "other"))
    )
    assert found.ours == tuple(map(ours.at, found.x))
    assert found.theirs == tuple(map(theirs.at, found.x))
    assert (folder / "robustness-against-other.png").is_file()


RHO = "rho_cw, C&W"


def trained(**rates: tuple[float, float]) -> tuple[SweptNetwork, ...]:
    """Networks by seed and c, with a clean accuracy and a rho_cw."""
    return tuple(
        SweptNetwork(
            name,
            {"c": name[1:], "seed": name[0]},
            {"clean accuracy": Measure(clean, clean, clean, 100), RHO: Measure(rho, rho, rho, 100, "length")},
        )
        for name, (clean, rho) in rates.items()
    )


def test_along_the_first_setting_goes_a_curve_for_each_combination_of_the_others(tmp_path: Path):
    made = trained(a5=(0.9, 1.0), b5=(0.8, 2.0), a20=(0.7, 3.0), b20=(0.6, 1.0))
    found = SweepResults(tmp_path, "r", EvaluationOptions(), RHO, made)
    assert {name: [(p.name, p.x, p.y) for p in line.points] for name, line in found.curves().items()} == {
        "seed=a": [("20", 0.7, 3.0), ("5", 0.9, 1.0)],
        "seed=b": [("20", 0.6, 1.0), ("5", 0.8, 2.0)],
    }
    far = {**made[0].measures, RHO: replace(made[0].measures[RHO], value=math.inf)}
    endless = replace(made[0], run="x", measures=far)
    more = replace(found, networks=(*found.networks, endless))
    assert more.curves() == found.curves(), "what is not finite cannot be drawn"
    more.save()
    assert SweepResults.load(tmp_path) == more
    apart = replace(found, folder=tmp_path / "b", networks=trained(a1=(0.99, 1.0), a2=(0.95, 2.0)))
    (first, second) = found.against(apart).values()
    assert "no clean accuracy in common" in first
    assert "no clean accuracy in common" in second


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vary", f"{VARY}=0.1"], r"a sweep needs two values at least"),
        (["--vary", f"{VARY}=5,5.0"], r"lr=5 is given twice"),
        (["--vary", "network.hidden=[8, 4],[8,4]"], r"network\.hidden=_8,_4_-[0-9a-f]+ is given twice"),
        (["--vary", "training.epoch=1,2"], r"training\.epoch: .*did you mean epochs\?"),
        (["--vary", "network.hidden=[8],[a]"], r"network"),
        (["--vary", "network.width=8,9"], r"network\.width=8: network: .*width"),
        (["--vary", "training.epochs=1,-1"], r"training: .*-1"),
        (["--vary", f"{VARY}"], r"--vary needs path=value,value, such as defence\.c=5,10,20"),
        (["--vary", f"{VARY}=1,,2"], r"nothing between two of the commas"),
        (["--vary", f"{VARY}=1,2", "--vary", f"{VARY}=3,4"], r"it is given twice"),
        (["--vary", f"{VARY}=1,2", "--set", f"{VARY}=3"], r"by --vary and by --set"),
        (["--vary", "evaluation.images=1,2"], r"a sweep varies what is trained.*a --battery that has"),
        (["--vary", f"{VARY}=1,2", "--battery", "quack"], r"quack"),
        (["--vary", f"{VARY}=1,2", "--against", "nowhere"], r"nowhere is no sweep"),
        (
            ["--vary", "training.seed=1,2", "--name", "tiny-sweep"],
            r"is a sweep over .*lr: give one over training\.seed another --name",
        ),
        (
            ["--vary", f"{VARY}=1", "--set", "training.epochs=2", "--name", "tiny-sweep"],
            r"holds a run with another training\.epochs",
        ),
    ],
)
def test_errors_are_raised_before_any_training(root: Path, call, words: list[str], message: str):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    name = [] if "--name" in words else ["--name", "new"]
    code, out, err = call("sweep", root / "tiny.toml", "--runs", root / "runs", *words, *name)
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_measure_that_is_not_there_is_named_after_the_first_network(folder: Path, call):
    words = ("sweep", folder.parents[1] / "tiny.toml", "--runs", folder.parent, "--vary", f"{VARY}=0.03")
    code, _, err = call(*words, "--measure", "rho_cw")
    assert code == 2
    assert "no measure begins with 'rho_cw'; all of the models have accuracy, FGSM .05" in err
    assert not (folder / f"{VARY}=0.03").exists()


def test_values_may_hold_commas(root: Path):
    from steelman.experiments.sweep import _values

    assert _values("a.b = 5, 10 ,2e1") == ("a.b", ["5", "10", "2e1"])
    assert _values("a=[1, 2],[3],'x,y',Plain") == ("a", ["[1, 2]", "[3]", "'x,y'", "Plain"])
    assert _values('a={ kind = "PGD", eps = 0.1 },Cosine') == ("a", ['{ kind = "PGD", eps = 0.1 }', "Cosine"])


def test_a_named_battery_takes_the_radius_of_the_data(root: Path, tmp_path: Path, call):
    words = ("--vary", f"{VARY}=0.02,0.01", "--set", "training.epochs=0", "--battery", "quick", "--images", 10)
    code, out, err = call("sweep", root / "tiny.toml", "--runs", tmp_path, *words)
    assert (code, err) == (0, "")
    assert SweepResults.load(tmp_path / "tiny-sweep").measure == "robust accuracy, Linf 0.15"
    assert out.count("robust accuracy, Linf 0.15") > 1


def test_the_battery_is_checked_for_each_of_several_data_sets(root: Path, tmp_path: Path, call):
    x, y = np.zeros((200, 1, 8, 8), np.float32), np.arange(200) % 10
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    vary = f'data=Digits,{{ kind = "Arrays", file = "{tmp_path / "own.npz"}" }}'
    words = ("sweep", root / "tiny.toml", "--runs", tmp_path / "runs", "--vary", vary, "--battery", "quick")
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert "there is no usual radius in Linf for Arrays: give eps (--eps)" in err
    assert not (tmp_path / "runs").exists()
    code, _, err = call(*words, "--eps", "0.1", "--images", 10)
    assert (code, err) == (0, "")


def test_a_bug_in_one_network_is_logged_and_the_others_continue(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    import steelman.experiments.sweep

    def train(recipe, *rest):
        if recipe.training.optimiser.lr == 0.03:
            raise KeyError("a bug")
        return before(recipe, *rest)

    before = steelman.experiments.sweep.train_recipe
    monkeypatch.setattr(steelman.experiments.sweep, "train_recipe", train)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    swept = sweep(str(folder.parents[1] / "tiny.toml"), [f"{VARY}=0.03,0.04"], folder.parent, say=lambda text: None)
    found = {each.values[VARY]: each for each in swept.networks}
    (log,) = (tmp_path / "state").rglob("*.log")
    assert found["0.03"].failed == f"KeyError: 'a bug'; details are in {log}"
    assert found["0.04"].measures


def test_a_damaged_sweep_is_refused_by_name(tmp_path: Path):
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(ValueError, match=r"sweep\.json is not what a sweep writes"):
        SweepResults.load(tmp_path)


def test_the_picture_of_a_sweep_names_every_value(root: Path):
    from steelman.report import draw, robustness_chart

    swept = SweepResults.load(root / "runs" / "tiny-sweep")
    (axes,) = draw(robustness_chart(swept.curves())).axes
    assert {text.get_text().lstrip("\u200b") for text in axes.texts} == {"0.005", "0.02"}
    assert np.isfinite(axes.get_xlim()).all()

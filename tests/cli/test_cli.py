"""The command, from a recipe to a report, and what it says to those who err."""

import json
import re
import shutil
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import forks
from steelman import checkpoint
from steelman.cli import main as cli
from steelman.methods import methods
from steelman.training import trained_weights

RECIPE = """
data = "Digits"
network = { kind = "MLP", hidden = [24] }
defence = { kind = "AdversarialTraining", attack = { kind = "FGSM", eps = 0.02 } }
training = { epochs = 2, validation = 100, batch_size = 32, optimiser = { kind = "Adam", lr = 0.02 } }
[evaluation]
images = 40
deep_defense = true
[evaluation.attacks]
"FGSM .1" = { kind = "FGSM", eps = 0.1 }
"""
pytestmark = pytest.mark.xdist_group("forks")  # as the other tests that use the process that forks; one run for all
VERBS = ("demo", "train", "attack-train", "evaluate", "sweep", "compare", "cite")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its finished, evaluated run."""
    root = tmp_path_factory.mktemp("root")
    (root / "tiny.toml").write_text(RECIPE)
    for words in (["train", root / "tiny.toml", "--runs", root / "runs"], ["evaluate", root / "runs" / "tiny"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["steelman", *map(str, words)])
            with pytest.raises(SystemExit) as end:
                cli.main()
            assert not end.value.code
    return root


def test_a_run_holds_what_was_promised(root: Path):
    run = root / "runs" / "tiny"
    assert {path.name for path in run.iterdir()} == {
        "recipe.toml", "last.safetensors", "best.safetensors", "log.jsonl", "evaluation", ".lock",
    }  # fmt: skip
    written = {path.name for path in (run / "evaluation").iterdir()}
    assert {"table.parquet", "results.json", "measures.csv", "report.html", "report.md"} <= written
    assert "parts" not in written
    assert any(re.fullmatch(r"curve-.*\.png", name) for name in written)
    assert any(re.fullmatch(r"curve-.*\.svg", name) for name in written)
    told = results(run / "evaluation")
    assert set(told) == {"tiny"}
    assert told["tiny"]["images"] == 40
    about = told["tiny"]["about"]
    assert (about["data"], set(about["model"])) == ("Digits", {"classes", "code", "weights", "buffers", "attributes"})
    (made,) = about["made"]
    assert made["command"] == f"steelman evaluate {run}"
    assert (made["steelman"], made["pytorch"]) == (version("steelman"), torch.__version__)
    assert all(made[each] for each in ("python", "device", "hardware", "date"))
    assert {attack["seed"] for attack in told["tiny"]["attacks"]} == {0}
    assert told["tiny"]["checkup"]["access"] == "gradients"
    assert "epochs = 2" in told["tiny"]["recipe"]
    assert len((run / "log.jsonl").read_text().splitlines()) == 3


def results(folder: Path) -> dict[str, dict]:
    return json.loads((folder / "results.json").read_text())["models"]


def test_a_finished_run_is_left_as_it_is(root: Path, call):
    before = (root / "runs" / "tiny" / "best.safetensors").read_bytes()
    code, out, err = call("train", root / "tiny.toml", "--runs", root / "runs")
    assert (code, err) == (0, "")
    assert "epoch 2, loss " in out
    assert f"steelman evaluate {root / 'runs' / 'tiny'}" in out
    assert (root / "runs" / "tiny" / "best.safetensors").read_bytes() == before


def test_how_it_is_evaluated_may_change_but_not_how_it_was_trained(root: Path, call):
    train = ("train", root / "tiny.toml", "--runs", root / "runs", "--set")
    assert call(*train, "evaluation.images=30")[0] == 0
    code, _, err = call(*train, "training.epochs=3", "--set", "defence.attack.eps=0.2")
    assert code == 2
    assert "tiny holds a run with another defence.attack.eps and training.epochs: give this one another --name" in err
    assert call(*train, "evaluation.images=40")[0] == 0


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without pictures, which take most of their time."""
    monkeypatch.setattr("steelman.report.document.charts_of", lambda *_: {})


@pytest.mark.usefixtures("undrawn")
def test_runs_are_compared_and_told_apart(root: Path, tmp_path: Path, call):
    shutil.copytree(root / "runs" / "tiny", tmp_path / "other" / "tiny")
    code, out, err = call("compare", root / "runs" / "tiny", tmp_path / "other" / "tiny", "--folder", tmp_path / "both")
    assert (code, err) == (0, "")
    assert "runs/tiny" in out
    assert "other/tiny" in out
    assert set(results(tmp_path / "both")) == {"runs/tiny", "other/tiny"}
    assert (tmp_path / "both" / "report.html").is_file()


def times(folder: Path) -> dict[Path, int]:
    """When the images that were kept were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("transfer-*/crafted/*/*.safetensors")}


@pytest.mark.usefixtures("undrawn")
def test_images_made_on_one_run_are_tested_on_the_others(root: Path, tmp_path: Path, call):
    run, both = root / "runs" / "tiny", tmp_path / "both"
    shutil.copytree(run, tmp_path / "twin")
    zero = ("train", root / "tiny.toml", "--runs", tmp_path, "--name", "zero", "--set", "training.epochs=0")
    assert call(*zero)[0] == 0
    words = ("compare", run, tmp_path / "twin", "--transfer", "FGSM .1", "--paper", "l2l-da", "--folder", both)
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    assert "FGSM .1, crafted on the rows" in out
    found = json.loads((both / "results.json").read_text())
    (matrix,) = found["transfer"]
    assert len(matrix["white"]) == 4, "twins know each other"
    accuracy = found["models"]["tiny"]["measures"]["accuracy, FGSM .1"]
    assert matrix["accuracy"] == [[accuracy] * 2] * 2
    assert (both / "table.tex").read_text().count("FGSM .1") == 1
    images = times(both)
    assert len(images) == 1, "what was made on one twin is what was made on the other"
    code, out, err = call(
        *words, "--transfer", "FGSM", "--surrogate", tmp_path / "zero", "--surrogate", run, "--ensemble"
    )
    assert (code, err) == (0, "")
    assert times(both).items() > images.items()
    first, second = json.loads((both / "results.json").read_text())["transfer"]
    assert first["sources"] == ["zero", "tiny", "mean of 2"]
    assert first["accuracy"][1][0] == accuracy
    assert second["attack"] == "FGSM()"


@pytest.mark.usefixtures("undrawn")
def test_what_an_evaluation_left_is_compared_without_its_model(root: Path, tmp_path: Path, call):
    run = root / "runs" / "tiny"
    shutil.copytree(run / "evaluation", tmp_path / "left")
    shutil.copytree(run, tmp_path / "twin")
    words = ("compare", tmp_path / "left", tmp_path / "twin", "--folder", tmp_path / "both")
    assert call(*words)[0] == 0
    assert results(tmp_path / "both")["tiny"]["checkup"] == results(run / "evaluation")["tiny"]["checkup"]
    code, _, err = call(*words, "--transfer", "FGSM .1")
    assert code == 2
    assert "left is no run, so it has no model for a transfer" in err


@pytest.mark.usefixtures("undrawn")
def test_what_cannot_be_compared_is_refused(root: Path, tmp_path: Path, call):
    run, other = root / "runs" / "tiny", tmp_path / "other"
    shutil.copytree(run, other)
    recipe = (other / "recipe.toml").read_text()
    (other / "recipe.toml").write_text(recipe.replace('kind = "Digits"', 'kind = "MNIST"'))
    code, _, err = call("compare", run, other)
    assert code == 2
    assert "other is of MNIST" in err
    assert "only runs of the same data can be compared" in err
    (other / "recipe.toml").write_text(recipe)
    code, _, err = call("evaluate", other, "--images", 20)
    assert code == 2
    assert "table.parquet holds 40 images, and 20 are to be evaluated: give more --images, another --folder" in err
    assert call("evaluate", other, "--images", 20, "--fresh")[0] == 0
    code, _, err = call("compare", run, other)
    assert code == 2
    assert "other was evaluated on 20 images" in err
    code, _, err = call("compare", run, run)
    assert code == 2
    assert "given twice" in err
    shutil.rmtree(other / "evaluation")
    code, _, err = call("compare", run, other)
    assert code == 2
    assert "has not been evaluated: `steelman evaluate" in err


@pytest.mark.usefixtures("undrawn")
def test_the_last_checkpoint_is_evaluated_when_it_is_named(root: Path, tmp_path: Path, call):
    run = tmp_path / "run"
    shutil.copytree(root / "runs" / "tiny", run)
    assert call("evaluate", run / "last.safetensors", "--images", 20, "--eps-ref-of", run)[0] == 0
    assert set(results(run / "evaluation-last")) == {"run (last)"}


def test_a_recipe_begins_where_another_ends(root: Path, tmp_path: Path, call):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    start = 'start = "tiny.toml"\n' + RECIPE.replace("epochs = 2", "epochs = 0")
    (tmp_path / "next.toml").write_text(start)
    assert call("train", tmp_path / "next.toml", "--runs", root / "runs")[0] == 0
    ours, theirs = (trained_weights(root / "runs" / name) for name in ("next", "tiny"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for number, (change, name) in enumerate({"[25]": "hidden", "[24], gain = 2.0": "gain"}.items()):
        (tmp_path / f"other{number}.toml").write_text(start.replace("[24]", change))
        code, _, err = call("train", tmp_path / f"other{number}.toml", "--runs", root / "runs")
        assert code == 2
        assert f"network is not that of {root / 'runs' / 'tiny'}, its start: both need the same {name}, or" in err
    bounded = start.replace("[24]", "[24], bounded_relu = 1.0, init = { std = 0.1 }")
    (tmp_path / "bounded.toml").write_text(bounded)
    assert call("train", tmp_path / "bounded.toml", "--runs", root / "runs")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "referense_mnist_lenet"], r"no recipe referense_mnist_lenet; did you mean reference_mnist_lenet\?"),
        (["train", "TINY", "--set", "training.epoch=3"], r"training\.epoch: .*did you mean epochs\?"),
        (["train", "TINY", "--set", "nonsense"], "--set needs path=value, such as training.epochs=5"),
        (["train", "TINY", "--set", "defence=Plane"], r"defence\.kind: .*'Plane'; did you mean Plain\?"),
        (["train", "TINY", "--set", "network.kind=LeNett"], r"network: .*did you mean LeNet\?"),
        (
            ["train", "TINY", "--set", 'data={ kind = "Arrays", file = "none.npz" }', "--data-dir", "NOWHERE"],
            r"none\.npz",
        ),
        (["train", "TINY", "--set", "training.seed=1.5"], r"training\.seed: "),
        (["evaluate", "NOWHERE"], r"NOWHERE is no run: .*recipe\.toml.*steelman train"),
        (["evaluate", "RUN/other.safetensors"], r"a run's checkpoints are best\.safetensors and last\.safetensors"),
        (
            ["evaluate", "RUN", "--data", "MNIST"],
            r"tiny is a run, which has its own data and network: leave out --data",
        ),
        (["evaluate", "RUN", "--battery", "qiuck"], r"there is no battery qiuck; did you mean quick\?"),
        (
            ["evaluate", "RUN", "--eps", "0.1"],
            r"tiny has attacks of its own, with their norms and radii: give --battery",
        ),
        (["compare", "RUN", "NOWHERE"], r"NOWHERE is no run"),
        (["compare", "RUN", "--surrogate", "RUN"], r"surrogates are for a transfer: name its attack too"),
        (["compare", "RUN", "--transfer", "FGSM .2"], r"no run has an attack of this name.*did you mean FGSM \.1\?"),
        (["compare", "RUN", "--transfer", "FGSM", "--ensemble"], r"an ensemble needs two sources and more"),
        (["cite", "DeepFoul"], r"no method is called DeepFoul: did you mean DeepFool\?"),
    ],
)
def test_a_user_s_error_is_one_line_without_a_traceback(words: list[str], message: str, root: Path, call):
    places = {"TINY": root / "tiny.toml", "RUN": root / "runs" / "tiny", "NOWHERE": root / "NOWHERE"}
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    code, out, err = call(*words, *(["--runs", root / "new"] if words[0] == "train" else []))
    assert code == 2
    assert err.startswith("steelman: ")
    assert re.search(message, err)
    assert "Traceback" not in err
    assert out == ""
    assert not (root / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "RUN", "--norm", "L9"], "'--norm': there is no 'L9'; there are L0, L1, L2, Linf"),
        (["evaluate", "RUN", "--access", "score"], "'--access': there is no 'score'; did you mean scores?"),
        (["evaluate", "m:f", "--mean", "a,b"], "'--mean': 'a,b' is no list of numbers with commas between them"),
        (["evaluate", "m:f", "--std", ".1,inf"], "'--std': '.1,inf' is no list of numbers with commas between them"),
        (["compare", "RUN", "--paper", "l2lda"], "'--paper': there is no 'l2lda'; did you mean l2l-da?"),
    ],
)
def test_an_invalid_option_is_named(words: list[str], message: str, call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert f"Invalid value for {message}" in " ".join(err.split())


def test_tracebacks_are_shown_on_request(call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STEELMAN_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        call("train", "none")


def test_divergence_has_its_own_exit_code(root: Path, tmp_path: Path, call):
    change = "training.optimiser.lr=1e30"
    code, _, err = call("train", root / "tiny.toml", "--runs", tmp_path, "--set", change)
    assert code == 1
    assert re.search(r"in epoch 1, batch \d+ of 38 .* the last good checkpoint is .*last\.safetensors", err)


@pytest.mark.parametrize(("wrong", "right"), [("trian", "train"), ("evalute", "evaluate"), ("compair", "compare")])
def test_an_unknown_verb_names_the_nearest(wrong: str, right: str, call):
    code, _, err = call(wrong)
    assert code == 2
    assert f"Did you mean '{right}'?" in err


def test_help_teaches(call):
    code, out, _ = call("--help")
    assert code == 0
    assert all(verb in out for verb in (*VERBS, "steelman demo"))
    for verb in VERBS:
        code, out, _ = call(verb, "--help")
        assert code == 0
        assert re.search(rf"Example: +steelman {verb} ", out)
    _, out, _ = call("train", "--help")
    for each in [*methods("defence"), *methods("preparation")]:
        assert re.search(rf"\b{each.name} +{re.escape(each.summary[:20])}", out)


def test_citations(call):
    code, out, _ = call("cite", "PGD", "DeepDefense")
    assert code == 0
    assert "Madry" in out
    assert "Yan" in out
    assert "CarliniWagner" not in out


LONG = ("training.epochs=12", "training.images=400")


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Path:
    train("tiny", root / "tiny.toml", root / "undisturbed")
    return root / "undisturbed" / "tiny"


def train(name: str, recipe: Path, runs: Path) -> None:
    from steelman.experiments import run as rooms

    rooms.train(str(recipe), runs, None, [*LONG], name)


def test_an_interrupt_leaves_a_checkpoint_from_which_it_ends_in_the_same_bits(
    root: Path, undisturbed: Path, tmp_path: Path
):
    changes = [word for change in LONG for word in ("--set", change)]
    words = [sys.executable, "-m", "steelman", "train", root / "tiny.toml", "--runs", tmp_path, *changes]
    last, epochs = tmp_path / "tiny" / "last.safetensors", [-1]
    for number in (signal.SIGINT, signal.SIGTERM):
        before = last.stat().st_ino if last.exists() else None
        run = forks.Popen(words, stderr=forks.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not last.exists() or last.stat().st_ino == before:
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.002)
        run.send_signal(number)
        _, err = run.communicate(timeout=60)
        assert run.returncode == 130
        assert err == "steelman: training was interrupted; the same call resumes it from its checkpoint\n"
        epochs.append(checkpoint.load(last)["position"][0])
    assert epochs == sorted(epochs)
    assert epochs[-1] < 12
    train("tiny", root / "tiny.toml", tmp_path)
    for name in ("best", "last"):
        ours, theirs = (trained_weights(folder, name) for folder in (last.parent, undisturbed))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_network_that_knows_nothing_is_evaluated_all_the_same(root: Path, tmp_path: Path, call):
    assert call("train", root / "tiny.toml", "--runs", tmp_path, "--set", "training.epochs=0")[0] == 0
    with pytest.warns(UserWarning, match="no accuracies at eps_ref"):
        assert call("evaluate", tmp_path / "tiny", "--images", 20)[0] == 0

"""Opening is not running: what a file names is imported only where the user has written or allowed it."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

from steelman import FGSM, L2LDA, Surrogate, checkpoint
from steelman.data import Digits, External
from steelman.evaluation.store import EvaluationFolder
from steelman.experiments.attack_train import attack_train
from steelman.experiments.compare import _left
from steelman.experiments.opening import open_subject
from steelman.experiments.recipe import load_recipe
from steelman.experiments.run import Run, train
from steelman.experiments.swept import Swept
from steelman.loading import source
from steelman.measures.line import Axis, Line, Point
from steelman.networks import MLP, build
from steelman.networks.building import described, network_of
from steelman.report.plots import draw_lines, save_figure, svg
from steelman.table.places import table_path
from steelman.table.table import Evaluation
from steelman.trust import Untrusted, configured, imported, trusting
from steelman.workers import workers

MODULE = """
import os, subprocess, functools, pathlib
from torchvision_like import foreign
from steelman.data import Digits
from steelman.filters import BitDepth
from steelman.networks import MLP, Normalise

pathlib.Path(__file__).with_name("RAN").touch()
shell = functools.partial(os.system)

def net(shape, classes, hidden=()):
    return MLP(shape=shape, classes=classes, hidden=hidden)

def data(split):
    return Digits().load(split)

def part(shape):
    return Normalise(shape=shape)
"""
RECIPE = """
data = "Digits"
network = { kind = "MLP", hidden = [8] }
defence = "Plain"
training = { epochs = 1, images = 100, optimiser = { kind = "Adam", lr = 0.02 } }
[evaluation]
images = 20
[evaluation.attacks]
"FGSM .1" = { kind = "FGSM", eps = 0.1 }
"""
NET, HOSTILE = 'network = { kind = "MLP", hidden = [8] }', 'network = { kind = "theirs:net", hidden = [8] }'
DATA = 'data = { kind = "External", function = "theirs:data" }'


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and an evaluated run of networks of this package."""
    from steelman.experiments.assess import assess, battery_of, look
    from steelman.report.export import write

    root = tmp_path_factory.mktemp("good")
    (root / "good.toml").write_text(RECIPE)
    run = train(str(root / "good.toml"), root / "runs", None)
    subject, found = look(run.subject(None))
    write(run.results, [assess(subject, battery_of(subject), found, folder=run.results, progress=False)])
    return root


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without pictures, which take most of their time."""
    for each in ("export", "pictures"):
        monkeypatch.setattr(f"steelman.report.{each}.figures", lambda entries: {})


@pytest.fixture
def place(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a module and a run from somebody else, whose recipe names that module."""
    (tmp_path / "theirs.py").write_text(MODULE)
    (tmp_path / "torchvision_like.py").write_text("def foreign(shape, classes): raise AssertionError")
    shutil.copytree(good / "runs" / "good", tmp_path / "runs" / "hostile")
    recipe = tmp_path / "runs" / "hostile" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('kind = "MLP"', 'kind = "theirs:net"'))
    for name in ("best", "last"):
        file = tmp_path / "runs" / "hostile" / f"{name}.safetensors"
        net = described(MLP(shape=(1, 8, 8), hidden=[8]), {"kind": "theirs:net", "hidden": [8]}, (1, 8, 8), 10)
        state = checkpoint.load(file)
        nets = state.get("nets", state)
        nets["generator"] = nets["classifier"]
        checkpoint.save(file, state, {"classifier": net, "generator": net})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield tmp_path
    for name in ("theirs", "torchvision_like"):
        sys.modules.pop(name, None)


def ran(place: Path) -> bool:
    return (place / "RAN").exists()


def written(place: Path, text: str, name: str = "theirs.toml") -> str:
    (place / name).write_text(text)
    return name


def swept(place: Path) -> None:
    """A sweep from somebody else."""
    (place / "runs" / "plain-sweep").mkdir()
    networks = [{"run": f"{k}", "values": {"network.kind": k}, "measures": {}} for k in ("MLP", "theirs:net")]
    told = {"recipe": "plain", "evaluation": {}, "measure": "", "networks": networks}
    (place / "runs" / "plain-sweep" / "sweep.json").write_text(json.dumps(told))


SURROGATE = '[attacks]\nS = { kind = "Surrogate", attack = "FGSM", model = "runs/hostile" }'
GENERATOR = '[attacks]\nG = { kind = "L2LDA", generator = "runs/hostile" }'
ENSEMBLE = 'network = { kind = "Ensemble", members = [{ kind = "MLP" }, { kind = "theirs:net" }] }'
GENERATING = """
data = "Digits"
network = { kind = "MLP" }
start = "x"
defence = { kind = "AttackTraining", adversary = { kind = "L2LDA", steps = 1, width = 2 } }
training = { epochs = 1, images = 100, validation = 50 }
"""
GUIDED = 'prepare = [{ kind = "Crafted", attack = "FGSM", on = "theirs.toml" }]\n' + RECIPE
CALLS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "evaluate": lambda place: ("evaluate", "runs/hostile"),
    "evaluate last": lambda place: ("evaluate", "runs/hostile/last.safetensors"),
    "eps-ref-of": lambda place: ("evaluate", "GOOD", "--folder", "here", "--eps-ref-of", "runs/hostile"),
    "battery, surrogate": lambda place: (
        *("evaluate", "GOOD", "--folder", "here", "--images", 20),
        *("--battery", written(place, SURROGATE)),
    ),
    "battery, generator": lambda place: (
        *("evaluate", "GOOD", "--folder", "here", "--images", 20),
        *("--battery", written(place, GENERATOR)),
    ),
    "train, network": lambda place: ("train", written(place, RECIPE.replace(NET, HOSTILE))),
    "train, data": lambda place: ("train", written(place, RECIPE.replace('data = "Digits"', DATA))),
    "train, preprocess": lambda place: (
        "train",
        written(place, RECIPE.replace("[8] }", '[8], preprocess = "theirs:part" }')),
    ),
    "train, filter": lambda place: (
        "train",
        written(place, RECIPE.replace("[8] }", '[8], filter = { kind = "theirs:part" } }')),
    ),
    "train, members": lambda place: ("train", written(place, RECIPE.replace(NET, ENSEMBLE))),
    "train, start recipe": lambda place: (
        "train",
        (written(place, RECIPE.replace(NET, HOSTILE)), written(place, 'start = "theirs.toml"\n' + RECIPE, "a.toml"))[1],
    ),
    "train, prepare": lambda place: (
        "train",
        (written(place, RECIPE.replace(NET, HOSTILE)), written(place, GUIDED, "a.toml"))[1],
    ),
    "train, prepare on a run": lambda place: (
        "train",
        written(place, GUIDED.replace("theirs.toml", "runs/hostile/best.safetensors"), "a.toml"),
    ),
    "attack-train": lambda place: ("attack-train", "runs/hostile", "L2LDA"),
    "attack-train by a recipe": lambda place: (
        *("attack-train", "runs/hostile"),
        written(place, GENERATING),
    ),
    "sweep": lambda place: (
        *("sweep", written(place, RECIPE.replace(NET, HOSTILE))),
        *("--vary", "training.seed=1,2"),
    ),
    "sweep.json": lambda place: (
        swept(place),
        *("sweep", written(place, RECIPE, "plain.toml"), "--vary", "network.kind=MLP"),
    )[1:],
    "compare, transfer": lambda place: ("compare", "GOOD", "runs/hostile", "--transfer", "FGSM .1"),
    "compare, surrogate": lambda place: ("compare", "GOOD", "--transfer", "FGSM .1", "--surrogate", "runs/hostile"),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_file_has_its_names_imported(name: str, good: Path, place: Path, call: Callable[..., Any]) -> None:
    words = [good / "runs" / "good" if each == "GOOD" else each for each in CALLS[name](place)]
    code, out, err = call(*words)
    assert code == 2, out + err
    assert "--trust theirs" in err
    assert f"which would import {place / 'theirs.py'}" in err
    assert err.count("\n") == 1
    assert not ran(place)
    assert "theirs" not in sys.modules


@pytest.mark.parametrize("name", ["evaluate", "train, data", "train, preprocess", "attack-train by a recipe", "sweep"])
def test_what_is_trusted_runs(name: str, good: Path, place: Path, call: Callable[..., Any]) -> None:
    words = CALLS[name](place)
    code, out, err = call(*words, "--trust", "theirs")
    assert (code, err) == (0, ""), out
    assert ran(place)
    shutil.rmtree(place / "runs" / "hostile")


def test_trust_ends_with_the_call(place: Path, call: Callable[..., Any]) -> None:
    assert call("evaluate", "runs/hostile", "--trust", "theirs")[0] == 0
    code, _, err = call("evaluate", "runs/hostile")
    assert (code, "--trust theirs" in err) == (2, True)


@pytest.mark.parametrize(
    "trusted", ["theirs", "theirs:net", "other", "their", "theirs.part", "theirs:part"], ids=lambda name: name
)
def test_a_module_or_a_name_is_trusted_and_nothing_like_it(trusted: str, place: Path) -> None:
    with trusting(trusted):
        if trusted in ("theirs", "theirs:net"):
            assert isinstance(checkpoint.network("runs/hostile"), MLP)
            return
        with pytest.raises(ValueError, match=r"best\.safetensors names 'theirs:net', which would import"):
            checkpoint.network("runs/hostile")
    assert not ran(place)


def test_the_library_asks_the_same(place: Path) -> None:
    images = next(Digits().load("test").in_order(8))
    for use in (
        lambda: checkpoint.network("runs/hostile"),
        lambda: Surrogate(FGSM(), "runs/hostile")(MLP(shape=(1, 8, 8)), images.x, images.y),
        lambda: L2LDA(generator="runs/hostile")(MLP(shape=(1, 8, 8)), images.x, images.y),
        lambda: open_subject("runs/hostile"),
        lambda: Run.open(Path("runs/hostile")).network(Digits().load("test")),
        lambda: network_of({"kind": "theirs:net"}, (1, 8, 8), 10),
        lambda: load_recipe(Path(written(place, RECIPE.replace('data = "Digits"', DATA)))).data.load("test"),
        lambda: attack_train(Path("runs/hostile"), "L2LDA", Path("runs"), None),
    ):
        with pytest.raises(ValueError, match=r"'theirs:(net|data)', which would import .*theirs\.py: .*--trust theirs"):
            use()
    assert not ran(place)
    with trusting("theirs"):
        assert isinstance(open_subject("runs/hostile").model, MLP)


def test_copies_of_what_a_recipe_says_are_trusted_no_more(place: Path) -> None:
    data = load_recipe(Path(written(place, RECIPE.replace('data = "Digits"', DATA)))).data
    for each in (data, copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        with pytest.raises(Untrusted):
            each.load("test")
    assert not ran(place)


def test_what_the_user_has_written_needs_no_trust(place: Path, call: Callable[..., Any]) -> None:
    assert isinstance(build("theirs:net", shape=(1, 8, 8), classes=10), MLP)
    assert len(External("theirs:data").load("test")) == 500
    assert len(source("theirs:data").load("test")) == 500
    assert len(source('{ kind = "External", function = "theirs:data" }').load("test")) == 500
    assert isinstance(open_subject("theirs:net", data="theirs:data").model, MLP)
    torch.save(MLP(shape=(1, 8, 8), hidden=[8]).state_dict(), place / "net.pt")
    table = '{ kind = "theirs:net", hidden = [8], preprocess = "theirs:part" }'
    for network in ("theirs:net", table):
        with pytest.raises(ValueError, match=r"it (lacks|has) "):  # of other sizes, but made
            open_subject("net.pt", data="Digits", network=network)
    recipe = written(place, RECIPE)
    assert call("train", recipe, "--set", "network.kind=theirs:net", "--set", DATA.replace(" = ", "=", 1))[0] == 0
    code, _, err = call("evaluate", "runs/theirs")
    assert (code, "recipe.toml names 'theirs:data'" in err) == (2, True)
    words = ("sweep", recipe, "--name", "s", "--vary", 'network.kind=MLP,"theirs:net"', "--images", 20)
    assert call(*words)[0] == 0
    victim = ("attack-train", "runs/hostile", written(place, GENERATING, "g.toml"))
    assert call(*victim, "--set", "network.kind=theirs:net")[0] == 0


STANDARD = ["subprocess:getoutput", "shutil:rmtree", "builtins:eval", "os:system", "posix:system", "functools:partial"]


@pytest.mark.parametrize("name", STANDARD)
def test_the_standard_library_is_never_called(name: str, place: Path, call: Callable[..., Any]) -> None:
    for use in (
        lambda: build(name, shape=(1, 8, 8)),
        lambda: network_of({"kind": name}, (1, 8, 8), 10),
        lambda: External(name).load("test"),
        lambda: open_subject(name, data="Digits"),
    ):
        with pytest.raises(ValueError, match=r", of Python's standard library, which is never called"):
            use()
    for trusted in (name, name.partition(":")[0]):
        code, _, err = call("evaluate", "runs/hostile", "--trust", trusted)
        assert (code, err.count("\n")) == (2, 1)
        assert "cannot be trusted: Python's standard library" in err


@pytest.mark.parametrize("path", ["os.system", "subprocess.getoutput", "shell", "pathlib.Path", "functools.partial"])
def test_no_way_through_another_module_leads_there(path: str, place: Path) -> None:
    for from_file in (True, False):
        with (
            trusting("theirs", f"theirs:{path}"),
            pytest.raises(Untrusted, match=r"leads to \w+:[\w.]+ of Python's standard library"),
        ):
            imported(f"theirs:{path}", from_file=from_file)


def test_trust_in_a_module_is_no_trust_in_what_it_imports(place: Path) -> None:
    with (
        trusting("theirs"),
        pytest.raises(Untrusted, match=r"leads to torchvision_like:foreign: you do not trust that"),
    ):
        imported("theirs:foreign", from_file=True)
    with trusting("theirs", "torchvision_like"):
        assert callable(imported("theirs:foreign", from_file=True))
    with trusting("theirs:foreign"):
        assert callable(imported("theirs:foreign", from_file=True))


@pytest.mark.parametrize("name", ["../theirs:net", "a/b:net", "theirs", "theirs:", ":net", "..:x", "theirs:net()"])
def test_names_are_names(name: str, place: Path) -> None:
    for from_file in (True, False):
        with pytest.raises(ValueError, match=r"is not of the form 'module:name'"):
            imported(name, from_file=from_file)
    assert not ran(place)


@pytest.mark.parametrize("name", ["", "*", "a b", "../x", "steelman", "steelman.files", "steelman.files:write_text"])
def test_what_cannot_be_trusted(name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be trusted"), trusting(name):
        raise AssertionError
    with trusting("theirs"), pytest.raises(ValueError, match=r"what is part of steelman has a name of its own"):
        imported("steelman.files:write_text", from_file=True)


@pytest.fixture
def installed(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, to which the module has moved."""
    for name in ("theirs.py", "torchvision_like.py"):
        (place / "lib").mkdir(exist_ok=True)
        (place / name).rename(place / "lib" / name)
    monkeypatch.syspath_prepend(place / "lib")
    return place / "lib"


def configure(place: Path, text: str) -> None:
    (place / "config" / "steelman").mkdir(parents=True, exist_ok=True)
    (place / "config" / "steelman" / "config.toml").write_text(text)


def test_the_users_own_list_is_of_what_is_installed(installed: Path, place: Path, call: Callable[..., Any]) -> None:
    code, _, err = call("evaluate", "runs/hostile")
    assert (code, f"which would import {installed / 'theirs.py'}" in err) == (2, True)
    assert f"for good by trusted = ['theirs'] in {place / 'config' / 'steelman' / 'config.toml'}" in err
    configure(place, 'trusted = ["other", "theirs"]')
    assert call("evaluate", "runs/hostile")[0] == 0
    assert ran(installed)


def test_it_is_no_list_of_what_lies_in_the_working_directory(place: Path, call: Callable[..., Any]) -> None:
    configure(place, 'trusted = ["theirs"]')
    code, _, err = call("evaluate", "runs/hostile")
    assert (code, ran(place)) == (2, False)
    assert f"if you trust {place / 'theirs'}, add --trust theirs" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trusted = [", "is not TOML"),
        ('trusted = "theirs"', "trusted is a list of modules"),
        ("trusted = [3]", "trusted is a list of modules"),
        ('trust = ["theirs"]', "there is no setting 'trust'"),
        ('trusted = ["os"]', "'os' cannot be trusted"),
        ("a = " + "[" * 5000, "is not TOML"),
        ("#" * (1 << 17), "is longer than 65536 bytes"),
    ],
    ids=range(7),
)
def test_a_configuration_that_is_wrong_is_named(text: str, message: str, place: Path) -> None:
    configure(place, text)
    with pytest.raises(ValueError, match=message):
        configured()


def test_no_configuration_trusts_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured() == frozenset()
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(place))
    assert configured() == frozenset()


def made(settings: dict[str, Any]) -> str:
    return type(network_of(settings, (1, 8, 8), 10)).__name__


def test_processes_trust_what_their_parent_does(place: Path) -> None:
    with trusting("theirs"), workers(2) as executor:
        assert executor.submit(made, {"kind": "theirs:net", "hidden": [3]}).result() == "MLP"
    assert ran(place)


def test_a_folder_is_not_searched_for_its_own_sake(place: Path) -> None:
    for name in ("rich", "tomli_w", "pyarrow", "typing", "matplotlib", "runpy", "numpy", "multiprocessing"):
        (place / f"{name}.py").write_text(f"open({str(place / 'RAN')!r}, 'a').write({name!r} + ' ')")
    shutil.copytree(place / "runs" / "hostile", place, dirs_exist_ok=True)
    recipe = (place / "recipe.toml").read_text().replace("theirs:net", "MLP")
    (place / "recipe.toml").write_text(recipe)
    command = [sys.executable, "-m", "steelman", "evaluate", ".", "--fresh", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    assert not ran(place), (place / "RAN").read_text()


def test_what_lies_in_the_working_directory_shadows_nothing(place: Path) -> None:
    before = sys.path[:]
    (place / "jinja2.py").write_text("raise AssertionError('shadowed')")
    assert callable(imported("theirs:net", from_file=False))
    assert sys.path == [*before, str(place)]
    assert imported("jinja2:Template", from_file=False).__module__ == "jinja2.environment"
    with pytest.raises(ValueError, match=r"'jinja2:net': 'net' is not there; .* comes before .*jinja2\.py: give that"):
        imported("jinja2:net", from_file=False)


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
        figure = draw_lines({r"\input": line})
        assert "<svg" in svg(figure, "salt")
        save_figure(figure, tmp_path / "line.png")


@pytest.mark.parametrize("file", ["results.json", "sweep.json"])
def test_what_programs_read_is_checked(file: str, good: Path, place: Path) -> None:
    left = place / "left"
    shutil.copytree(good / "runs" / "good" / "evaluation", left)
    swept(place)
    path = left / file if file == "results.json" else place / "runs" / "plain-sweep" / file
    whole = json.loads(path.read_text())
    use: Callable[[], object] = partial(_left, left) if file == "results.json" else partial(Swept.load, path.parent)
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

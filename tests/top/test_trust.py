"""Opening is not running: what a file names is imported only where the user has written or allowed it."""

import copy
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hostile import DATA, ENSEMBLE, GENERATING, GENERATOR, GUIDED, HOSTILE, NET, RECIPE, SURROGATE, ran, swept, written
from steelman import FGSM, L2LDA, Surrogate, checkpoint
from steelman.data import Digits, External
from steelman.experiments.attack_train import attack_train
from steelman.experiments.opening import open_subject
from steelman.experiments.recipe import load_recipe
from steelman.experiments.run import Run
from steelman.loading import source
from steelman.networks import MLP, build
from steelman.networks.building import network_of
from steelman.trust import Untrusted, configured, imported, trusting
from steelman.workers import workers

pytestmark = pytest.mark.usefixtures("undrawn")

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


def test_processes_trust_what_their_parent_does(place: Path) -> None:
    with trusting("theirs"), workers(2) as executor:
        made = executor.submit(network_of, {"kind": "theirs:net", "hidden": [3]}, (1, 8, 8), 10).result()
    assert isinstance(made, MLP)
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

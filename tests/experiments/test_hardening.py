"""From a model of one's own to a hardened one: what is chosen, what is left, and what a second call does."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

from steelman import checkpoint
from steelman.experiments import adopting
from steelman.experiments import harden as module
from steelman.experiments.adopting import adopt
from steelman.experiments.export import export
from steelman.experiments.harden import Hardened, harden
from steelman.experiments.recipe import load_recipe
from steelman.experiments.run import train
from steelman.measures import clean_accuracy, robust_accuracy
from steelman.networks import MLP
from steelman.norms import L2, Linf
from steelman.table.table import Evaluation
from steelman.trust import trusting

NETWORK = '{ kind = "MLP", hidden = [64] }'
SHORT: dict[str, Any] = {"eps": 0.1, "epochs": 1, "images": 60}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with plain.pt: a plainly trained network, with a prefix before the names."""
    home = tmp_path_factory.mktemp("home")
    (home / "plain.toml").write_text(
        f'data = "Digits"\nnetwork = {NETWORK}\ndefence = "Plain"\n'
        'training = { epochs = 15, optimiser = { kind = "Adam", lr = 0.01 } }'
    )
    run = train(str(home / "plain.toml"), home / "runs", None)
    state = checkpoint.load(run.checkpoint)["classifier"]
    torch.save({f"module.{name}": value for name, value in state.items()}, home / "plain.pt")
    return home


@pytest.fixture(scope="module")
def hardened(home: Path) -> tuple[Hardened, list[str]]:
    """What a call leaves and says."""
    said: list[str] = []
    model = adopt(str(home / "plain.pt"), network=NETWORK, data="Digits")
    return harden(model, home / "first", defence="fast", say=said.append, **SHORT | {"epochs": 15}), said


def test_the_hardened_model_is_more_robust_and_both_were_measured_on_the_same_images(
    hardened: tuple[Hardened, list[str]],
) -> None:
    found, _ = hardened
    before, after = (Evaluation.load(run.results / "table.parquet") for run in (found.before, found.after))
    assert set(before["image"]) == set(after["image"])
    assert robust_accuracy(after, Linf, 0.1).value > robust_accuracy(before, Linf, 0.1).value + 0.1
    assert clean_accuracy(after).value > 0.85
    assert found.compared.written[-1].name == "report.html"


def test_before_is_the_model_as_it_came(home: Path, hardened: tuple[Hardened, list[str]]) -> None:
    model = MLP(hidden=(64,), shape=(1, 8, 8), classes=10)
    came = torch.load(home / "plain.pt")
    model.load_state_dict({name.removeprefix("module."): value for name, value in came.items()})
    x = torch.rand(5, 1, 8, 8)
    run = hardened[0].before
    assert torch.equal(run.network(run.data("test", None))(x), model.eval()(x))


def test_the_recipe_trains_the_same_network_again(home: Path, hardened: tuple[Hardened, list[str]]) -> None:
    found, said = hardened
    text = found.recipe.read_text()
    assert text.startswith("# Written by `steelman harden`.\n# length: 15 epochs of ")
    assert all(f"# {line}\n" in text for line in said if line.startswith(("optimiser: ", "rate: ", "length: ")))
    again = train(str(found.recipe), home / "again", None)
    ours, theirs = (checkpoint.load(run.checkpoint)["classifier"] for run in (found.after, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_was_won_is_said_in_the_numbers_of_the_tables(hardened: tuple[Hardened, list[str]]) -> None:
    found, _ = hardened
    before, after = (Evaluation.load(run.results / "table.parquet") for run in (found.before, found.after))
    numbers = [f"{clean_accuracy(before)} -> {clean_accuracy(after)}"]
    numbers.append(f"Linf 0.1 {robust_accuracy(before, Linf, 0.1)} -> {robust_accuracy(after, Linf, 0.1)}")
    assert all(each in found.sentence for each in numbers)


def test_a_second_call_repeats_nothing_and_another_model_is_refused(
    home: Path, hardened: tuple[Hardened, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(*_: object, **__: object) -> None:
        raise AssertionError("chosen again")

    monkeypatch.setattr(module, "planned", planned)
    written = hardened[0].after.checkpoint.stat().st_mtime_ns
    model = adopt(str(home / "plain.pt"), network=NETWORK, data="Digits")
    again = harden(model, home / "first", defence="fast", **SHORT | {"epochs": 15})
    assert again.after.checkpoint.stat().st_mtime_ns == written
    assert again.sentence == hardened[0].sentence
    with pytest.raises(ValueError, match=r"hardened.toml is there, and has another training.epochs"):
        harden(model, home / "first", changes=["training.epochs=3"], **SHORT)
    with pytest.raises(ValueError, match=r"hardened.toml is there, and has another defence"):
        harden(model, home / "first", defence="MART", **SHORT | {"epochs": 15})
    with pytest.raises(ValueError, match=r"hardened.toml is there, and has another defence.attack.eps"):
        harden(model, home / "first", **SHORT | {"epochs": 15, "eps": 0.2})
    with pytest.raises(ValueError, match="holds a run with another start"):
        harden(adopt(str(home / "runs/plain")), home / "first", **SHORT)


def test_what_was_done_to_a_model_is_said_once(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = adopt(str(home / "plain.pt"), network=NETWORK, data="Digits", mean=[0.3], std=[0.4])
    assert model.said == (
        "input: normalised by mean 0.3, std 0.4",
        f"weights: {home}/plain.pt, into MLP, without the prefix module.",
    )
    said: list[str] = []
    harden(model, tmp_path / "runs", defence="fast", say=said.append, **SHORT)
    assert "start: " not in capfd.readouterr().err + "".join(said)


def test_runs_may_be_a_link_to_a_folder_elsewhere(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large/disk").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/runs").symlink_to(tmp_path / "large/disk")
    (tmp_path / "here/own.pt").write_bytes((home / "plain.pt").read_bytes())
    monkeypatch.chdir(tmp_path / "here")
    found = harden(adopt("own.pt", network=NETWORK, data="Digits"), Path("runs"), defence="fast", **SHORT)
    assert load_recipe(found.recipe).starts == ("../../here/own.pt",)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("planned", "the choice of the rate was interrupted; the same call begins it again"),
        ("assess", r"the evaluation in .*mine-before/evaluation was interrupted; the same call resumes it"),
    ],
)
def test_an_interrupt_says_what_the_same_call_will_do(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, message: str
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    model = adopt(str(home / "plain.pt"), network=NETWORK, data="Digits")
    with monkeypatch.context() as patch:
        patch.setattr(module, where, stopped)
        with pytest.raises(KeyboardInterrupt, match=message):
            harden(model, tmp_path, called="mine", defence="fast", **SHORT)
    assert not (tmp_path / "mine").exists()


def test_weights_go_back_into_their_own_class(home: Path, hardened: tuple[Hardened, list[str]], tmp_path: Path) -> None:
    export(hardened[0].after, tmp_path / "out.pt")
    found = torch.load(tmp_path / "out.pt")
    assert list(found) == list(torch.load(home / "plain.pt"))


def test_a_run_brings_its_own_data_network_and_weights(home: Path) -> None:
    model = adopt(str(home / "runs/plain"))
    assert (model.start, model.network) == (home / "runs/plain/best.safetensors", {"kind": "MLP", "hidden": [64]})
    with pytest.raises(ValueError, match=r"plain is a run, .*: leave out --data"):
        adopt(str(home / "runs/plain"), data="Digits")


def test_a_gpu_that_is_not_used_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopting, "idle_gpu", lambda used: f"not {used}")
    monkeypatch.setattr(adopting, "device", lambda: torch.device("cpu"))
    assert adopt(str(home / "runs/plain")).said == ("device: cpu. not cpu",)


MODULE = """
import torch
from steelman.networks import MLP

def made(seed):
    torch.manual_seed(seed)
    return MLP(hidden=(64,), shape=(1, 8, 8), classes=10)

model = made(5)

def trained():
    return made(6)

def predict(images):
    return images.flatten(1)[:, :10]

def wide():
    return MLP(hidden=(16,), shape=(1, 8, 8), classes=7)

def bare():
    return torch.nn.Flatten()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hardened_models.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own")
def test_a_model_without_a_file_has_its_weights_written(tmp_path: Path) -> None:
    model = adopt("hardened_models:model", data="Digits", mean=[0.3], std=[0.4])
    with trusting("hardened_models:model", "hardened_models:trained"):
        found = harden(model, tmp_path / "runs", defence="fast", **SHORT)
        whole = found.before.network(found.before.data("test", None))
        torch.manual_seed(5)
        own = MLP(hidden=(64,), shape=(1, 8, 8), classes=10).eval()
        kept = safetensors.torch.load_file(tmp_path / "runs/hardened-start.safetensors")
        assert all(torch.equal(value, kept[key]) for key, value in own.state_dict().items())
        x = torch.rand(4, 1, 8, 8)
        torch.testing.assert_close(whole(x), own((x - 0.3) / 0.4))
        assert str(load_recipe(found.recipe).defence) == (
            "AdversarialTraining(attack=PGD(eps=0.1, steps=1, step_size=0.125), crafting=train)"
        )
        other = adopt("hardened_models:trained", data="Digits")
        with pytest.raises(ValueError, match="holds other weights than the model"):
            harden(other, tmp_path / "runs", **SHORT)


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("hardened_models:predict", {}, "a function of images, and only a torch.nn.Module can be trained"),
        ("hardened_models:wide", {}, r"answers \(7,\) numbers to an image, and the data have 10 classes"),
        ("hardened_models:bare", {}, "has no parameters, so there is nothing to train"),
        ("hardened_models:trained", {"network": "MLP"}, "--network is for state dicts"),
        ("model.onnx", {}, r"model.onnx cannot be trained: name a run, 'module:function'"),
        (".", {}, "is no run: there is no recipe.toml. `steelman train` makes one"),
        ("plain.pt", {}, "holds weights, and not what they are of: give --network"),
        ("hardened_models:trained", {"data": None}, "needs images: give --data"),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_cannot_be_trained_is_refused_with_a_remedy(what: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        adopt(what, **{"data": "Digits"} | options)


def test_a_folder_of_transformers_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(FileNotFoundError, match=f"it holds a model of transformers, which is named hf:{tmp_path}"):
        adopt(str(tmp_path), data="Digits")


@pytest.mark.parametrize("split", ["train", "test"])
def test_pictures_of_several_sizes_are_refused_before_any_work(tmp_path: Path, split: str) -> None:
    for part, name, count in product(("train", "test"), ("a", "b"), range(3)):
        folder = tmp_path / "pictures" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        side = 9 if (part, name, count) == (split, "b", 2) else 8
        Image.new("RGB", (side, 8)).save(folder / f"{count}.png")
    torch.save(MLP(hidden=(4,), shape=(3, 8, 8), classes=2).state_dict(), tmp_path / "mlp.pt")
    with pytest.raises(ValueError, match=r"image 5 has shape \(3, 8, 9\), and the first one has \(3, 8, 8\)"):
        adopt(
            str(tmp_path / "mlp.pt"), network='{ kind = "MLP", hidden = [4] }', data=str(tmp_path / "pictures"),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": L2, "eps": None}, "no usual radius in L2 for Digits: give eps"),
        ({"called": "../x"}, "no name of a folder"),
    ],
)
def test_nothing_is_written_where_a_setting_is_wrong(
    home: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        harden(adopt(str(home / "runs/plain")), tmp_path, **SHORT | options)
    assert not list(tmp_path.iterdir())

"""Trainings that begin from weights of one's own."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from steelman import checkpoint
from steelman.experiments.recipe_file import beside
from steelman.experiments.run import train
from steelman.experiments.starting import is_weights
from steelman.trust import Untrusted, trusting

MODULE = """
from torch import nn

def small(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))
"""

RECIPE = """
start = "own.pt"
data = "Digits"
defence = { kind = "Plain" }
training = { epochs = 0, batch_size = 100 }
network = { kind = "MODULE:small" }
"""


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture
def recipe(tmp_path: Path, net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of a user's own network, beside its weights."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(
        {"state_dict": {f"module.model.{key}": each for key, each in net.state_dict().items()}}, tmp_path / "own.pt"
    )
    (tmp_path / "mine.toml").write_text(RECIPE.replace("MODULE", name))
    return tmp_path / "mine.toml"


def trained(recipe: Path, *changes: str) -> dict[str, torch.Tensor]:
    """The weights after a training of no epochs."""
    name = recipe.read_text().partition('kind = "own_')[2].partition(":")[0]
    with trusting(f"own_{name}"):
        run = train(str(recipe), recipe.parent / "runs", None, list(changes))
        return checkpoint.trained_weights(run.folder, "last")


def test_a_training_begins_from_a_file_and_says_what_it_did(recipe: Path, net: nn.Module, capsys):
    found = trained(recipe)
    assert found.keys() == net.state_dict().keys()
    assert all(torch.equal(found[key], each) for key, each in net.state_dict().items())
    assert (
        f"start: the weights of {recipe.parent / 'own.pt'}, without the prefix module.model." in capsys.readouterr().err
    )


def test_a_file_is_named_by_its_shortest_path_that_is_no_other_file(recipe: Path, tmp_path: Path):
    (tmp_path / "runs").mkdir()
    assert beside(tmp_path / "runs/mine.toml", "../own.pt") == str(tmp_path / "own.pt")
    (tmp_path / "far/there").mkdir(parents=True)
    (tmp_path / "far/own.pt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "far/there")
    assert beside(tmp_path / "link/mine.toml", "../own.pt") == str(tmp_path / "link/../own.pt")


@pytest.mark.parametrize("name", ["other.pth", "other.safetensors"])
def test_other_files_are_read_too(name: str, recipe: Path, net: nn.Module):
    safetensors.torch.save_file(net.state_dict(), recipe.parent / "other.safetensors")
    torch.save(net.state_dict(), recipe.parent / "other.pth")
    found = trained(recipe, f"start={name}", "training.epochs=1")
    run = recipe.parent / "runs/mine"
    assert is_weights(str(recipe.parent / name))
    assert not is_weights(str(run / "best.safetensors"))
    assert not torch.equal(found["1.weight"], net.state_dict()["1.weight"])


def test_they_are_put_behind_the_preprocessing(recipe: Path, net: nn.Module):
    found = trained(
        recipe, 'network.preprocess={ kind = "Normalise" }', 'network.filter={ kind = "BitDepth", bits = 3 }'
    )
    inside = {key: each for key, each in found.items() if key.endswith(("1.weight", "1.bias"))}
    assert sorted(inside) == ["network.network.1.bias", "network.network.1.weight"]
    assert torch.equal(inside["network.network.1.weight"], net.state_dict()["1.weight"])


def test_a_preparation_is_guided_by_them(recipe: Path, net: nn.Module):
    changes = ['prepare=[{ kind = "SoftLabels", temperature = 1.0 }]', "training.epochs=1"]
    assert trained(recipe, *changes).keys() == net.state_dict().keys()


def test_weights_that_do_not_fit_or_are_not_there_are_named(recipe: Path, net: nn.Module):
    folder = recipe.parent
    torch.save({**net.state_dict(), "1.bias": torch.zeros(9)}, folder / "wide.pt")
    torch.save(net, folder / "whole.pt")
    for name, error, message in (
        ("wide.pt", ValueError, r"wide\.pt does not fit Sequential: 1\.bias is \(9,\) and should be \(10,\)"),
        (
            "whole.pt",
            ValueError,
            r"whole\.pt holds more than tensors and plain values, .* save model\.state_dict\(\) alone",
        ),
        ("gone.pt", FileNotFoundError, r"there is no file gone\.pt"),
    ):
        with pytest.raises(error, match=message):
            trained(recipe, f"start={name}")
    with pytest.raises(Untrusted, match=r"allow it by --trust own_"):
        train(str(recipe), folder / "runs", None)

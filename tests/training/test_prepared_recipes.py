"""Recipes whose data are made before training: what is trained first, kills, several processes, wrong chains."""

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import shipped
from preparations import everything
from scripts import in_a_pair, killed, run_script
from steelman import (
    FGSM,
    PGD,
    Distillation,
    checkpoint,
    config,
)
from steelman.data import Digits, split_off
from steelman.experiments import run as rooms
from steelman.training import prepare
from steelman.training.prepare import Crafted, CraftedPairs, Guided, NoisyCopies, Preparation, SoftLabels

group = pytest.mark.xdist_group("prepared recipes")  # whose fixture starts processes: once is enough

BASE = """
data = "Digits"
network = { kind = "MLP", hidden = [16] }
defence = "Plain"
training = { epochs = 2, batch_size = 64, seed = 3, validation = 97, optimiser = { kind = "SGD", lr = 0.05 } }
"""
OFFLINE = """
prepare = [
    { kind = "Crafted", attack = { kind = "PGD", eps = 0.1, steps = 2 }, on = "base.toml" },
    { kind = "NoisyCopies", copies = 1, sigma = 0.1 },
    { kind = "SoftLabels", temperature = 2.0, on = "base" },
]
data = "Digits"
network = { kind = "MLP", hidden = [8] }
defence = "Distillation"
training = { epochs = 2, batch_size = 400, seed = 3, validation = 97, optimiser = { kind = "SGD", lr = 0.05 } }
"""


def recipes(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.toml").write_text(BASE)
    (folder / "offline.toml").write_text(OFFLINE.replace('on = "base"', f'on = "{folder / "base"}"'))
    return folder / "offline.toml"


def train_chain(folder: Path) -> Path:
    rooms.train(str(recipes(folder)), folder / "runs", None)
    return folder / "runs"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain, trained by one process without a stop."""
    return train_chain(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain, trained by two processes in `pair`, and killed again and again in `killed`."""
    folder = tmp_path_factory.mktemp("started")
    run_script(__file__, str(folder))
    return folder


def test_a_recipe_prepares_its_data_by_networks_that_are_trained_first(alone: Path):
    assert sorted(path.name for path in alone.iterdir()) == ["base", "offline"]
    kept = checkpoint.load(alone / "offline" / "prepared" / "0" / "0-1199.safetensors")["values"]
    base, offline = rooms.Run.open(alone / "base"), rooms.Run.open(alone / "offline")
    rest, _ = split_off(Digits().load("train"), 97, seed=3)
    crafted = Crafted(PGD(eps=0.1, steps=2))(rest, base.network(rest), seed=3)
    whole = everything(crafted, 3000).x
    assert torch.equal(kept, whole[len(rest) :])
    soft = checkpoint.load(alone / "offline" / "prepared" / "2" / "0-4799.safetensors")["values"]
    noisy = everything(NoisyCopies(copies=1, sigma=0.1)(crafted, seed=4), 9000).x
    torch.testing.assert_close(soft, (base.network(rest)(noisy) / 2).softmax(1).detach())
    assert len(soft) == 4 * len(rest)
    assert len(offline.log) == 3


def test_without_on_the_reference_is_what_the_recipe_starts_from(tmp_path: Path):
    recipes(tmp_path)
    text = 'start = "base.toml"\nprepare = [{ kind = "Crafted", attack = "FGSM", keep_clean = false }]' + BASE
    (tmp_path / "tuned.toml").write_text(text.replace("lr = 0.05", "lr = 0.0"))
    tuned = rooms.train(str(tmp_path / "tuned.toml"), tmp_path / "runs", None)
    rest, _ = split_off(Digits().load("train"), 97, seed=3)
    reference = rooms.Run.open(tmp_path / "runs" / "base").network(rest)
    made = Crafted(FGSM(), keep_clean=False)(rest, reference, seed=3)
    assert torch.equal(stored(tuned.folder / "prepared" / "0"), everything(made, 2000).x)


@group
def test_killed_in_crafting_and_in_training_it_ends_in_the_same_bits(
    alone: Path, started: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(prepare, "PART", 500)
    runs = started / "killed" / "runs"
    assert len(list((runs / "offline" / "prepared" / "0").glob("*.safetensors"))) == 3
    assert checkpoint.load(runs / "offline" / "last.safetensors")["position"][0] == 0
    train_chain(started / "killed")
    same(runs, alone)


@group
def test_two_processes_make_the_same_data_and_the_same_network(alone: Path, started: Path):
    same(started / "pair" / "runs", alone, tolerance=1e-6)


def same(ours: Path, theirs: Path, tolerance: float = 0.0) -> None:
    """Data and networks; the data may be cut into other parts."""
    for stage in ("0", "2"):
        one, two = (stored(root / "offline" / "prepared" / stage) for root in (ours, theirs))
        torch.testing.assert_close(one, two, rtol=0, atol=tolerance)
    for name in ("base", "offline"):
        one, two = (checkpoint.load(root / name / "last.safetensors")["nets"]["classifier"] for root in (ours, theirs))
        torch.testing.assert_close(one, two, rtol=0, atol=tolerance)


def stored(folder: Path) -> Tensor:
    files = sorted(folder.glob("*.safetensors"), key=lambda path: int(path.name.split("-")[0]))
    return torch.cat([checkpoint.load(file)["values"] for file in files])


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ('prepare = [{ kind = "Crafted", attack = "FGSM" }]', ValueError, r"Crafted needs a trained network: name its"),
        ('prepare = [{ kind = "Crafted", attack = "FGSM", on = "me.toml" }]', ValueError, r"me\.toml needs .*me"),
        ('start = "other.toml"', ValueError, r"other\.toml needs .*me\.toml first, which needs other\.toml itself"),
        ('prepare = [{ kind = "SoftLabels", on = "bse" }]', FileNotFoundError, r"there is no recipe bse"),
        ('prepare = [{ kind = "SoftLabels", on = "larger" }]', ValueError, r"is not for Digits, so it cannot guide"),
        (
            'prepare = [{ kind = "SoftLabel", on = "x" }]',
            ValueError,
            r"prepare\[0\]\.kind: .*did you mean SoftLabels\?",
        ),
        ('prepare = [{ kind = "NoisyCopies", copies = 0 }]', ValueError, r"prepare\[0\]: NoisyCopies needs"),
    ],
)
def test_a_chain_that_cannot_be_is_refused_before_training(
    text: str, kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("me.toml").write_text(text + BASE)
    Path("other.toml").write_text('start = "me.toml"' + BASE)
    chance = torch.Generator().manual_seed(0)
    x, y = torch.rand(200, 1, 9, 9, generator=chance).numpy(), np.arange(200) % 10
    np.savez("larger.npz", x_train=x, x_test=x, y_train=y, y_test=y)
    Path("larger.toml").write_text(BASE.replace('"Digits"', '{ kind = "Arrays", file = "larger.npz" }'))
    with pytest.raises(kind, match=message):
        rooms.train("me.toml", tmp_path / "runs", None)
    assert not (tmp_path / "runs" / "me").exists()


def test_a_run_with_another_preparation_is_refused(alone: Path):
    path = recipes(alone.parent)
    path.write_text(path.read_text().replace("eps = 0.1", "eps = 0.2"))
    with pytest.raises(ValueError, match=r"holds a run with another prepare"):
        rooms.train(str(path), alone, None)
    recipes(alone.parent)


@shipped.group
@pytest.mark.parametrize("path", shipped.ALL, ids=lambda path: path.stem)
def test_what_shipped_recipes_wait_for_is_there_and_fits(path: Path):
    recipe = shipped.shipped(path)
    rooms._check_chain(path, recipe)
    for preparation in recipe.prepare:
        if not isinstance(preparation, Guided) or preparation.on is None:
            continue
        guide = shipped.shipped(path.parent / preparation.on)
        assert guide.data == recipe.data
        assert guide.training.seed == recipe.training.seed  # so that both hold out the same images
        if isinstance(preparation, SoftLabels):
            assert isinstance(recipe.defence, Distillation)
            assert guide.defence == recipe.defence
            assert preparation.temperature == recipe.defence.temperature


@pytest.mark.parametrize(
    "preparation",
    [
        *(NoisyCopies(clip=True), Crafted(FGSM(), on="x.toml"), SoftLabels(5.0)),
        CraftedPairs((FGSM(eps=0.1), PGD(eps=0.2)), on="x.toml"),
    ],
)
def test_preparations_survive_toml(preparation: Preparation):
    assert config.read(Preparation, config.write(preparation)) == preparation


def _main(folder: Path) -> None:
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # a process may be killed here, but the machine is not
    recipes(folder)
    rooms.train(str(folder / "base.toml"), folder, None, ["training.epochs=0"])  # imports all
    prepare.PART = 500
    in_a_pair(partial(train_chain, folder / "pair"))
    train = partial(train_chain, folder / "killed")
    killed(train, "base/last.safetensors", 2)
    killed(train, "prepared/0/500-999.safetensors", 1)
    killed(train, "prepared/2/1500-1999.safetensors", 1)
    killed(train, "offline/last.safetensors", 2)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

"""Checkpoints that say how their networks are built: no recipe, no data set and no `Run` is needed to use one."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steelman import FGSM, GAP, L2LDA, PGD, PGN, AttackTraining, Plain, Surrogate, Training, checkpoint, config, fit
from steelman.adversaries import Adversary
from steelman.data import Digits, InMemory
from steelman.experiments.attack_train import attack_train
from steelman.experiments.run import Run, train
from steelman.identity import model_parts
from steelman.networks import MLP
from steelman.networks.building import _KINDS, build, described, description_of, network_of
from steelman.networks.preprocess import Preprocess
from steelman.trust import trusting

SMALL: dict[str, dict[str, Any]] = {
    "WideResNet": {"depth": 10, "width": 1},
    "NIN": {"dropout": 0.3},
    "Quilting": {"patches": 20},
}
"""Settings of networks that would be large, or are to have some."""


def own(shape: tuple[int, ...], classes: int, width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), width), nn.ReLU(), nn.Linear(width, classes))


def kinds() -> list[Any]:
    return [{"kind": kind, **SMALL.get(kind, {})} for kind in _KINDS if kind not in (*PREPROCESSINGS, *FILTERS)]


PREPROCESSINGS = ("Normalise", "StandardiseImage", "SubtractMean", "Whiten", "InputForm")
FILTERS = [name for name, kind in _KINDS.items() if kind.__module__.startswith("steelman.filters")]
INNER = {"PixelDefend": "PixelCNN", "DefenseGAN": "MLPGenerator", "Reformer": "DenoisingAutoencoder"}
"""The networks in filters that have one."""
LATENT = ("GANGenerator", "MLPGenerator")


TABLES = [
    *kinds(),
    *({"kind": "MLP", "preprocess": kind} for kind in PREPROCESSINGS),
    *(
        {"kind": "MLP", "hidden": [5], "filter": {"kind": kind, **SMALL.get(kind, {})}}
        for kind in FILTERS
        if kind not in INNER
    ),
    *(
        {"kind": "MLP", "hidden": [5], "filter": {"kind": kind, "network": {"kind": each}}}
        for kind, each in INNER.items()
    ),
    {"kind": "LeNet", "bounded_relu": 1.0},
    {"kind": "MLP", "preprocess": {"kind": "InputForm", "range": [-1.0, 1.0], "order": "BGR", "size": [8, 8]}},
    {"kind": "MLP", "preprocess": {"kind": "Normalise", "mean": [0.5] * 3, "std": [0.2] * 3}, "filter": "BitDepth"},
    {"kind": "Ensemble", "members": [{"kind": "MLP", "preprocess": "SubtractMean"}, {"kind": "LeNet"}]},
    {"kind": f"{__name__}:own", "width": 4},
]


def images(shape: tuple[int, ...] = (3, 32, 32)) -> InMemory:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, *shape), generator=generator, dtype=torch.uint8)
    return InMemory("random", pixels, torch.arange(12) % 4, tuple("abcd"))


def equal(one: nn.Module, two: nn.Module) -> bool:
    ours, theirs = one.state_dict(), two.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("settings", TABLES, ids=lambda table: "-".join(map(str, table.values()))[:40])
def test_a_network_is_built_again_from_its_checkpoint_alone(settings: dict[str, Any], tmp_path: Path):
    shape = {"AlexNet": (3, 67, 67), "MLP": (3, 8, 8)}.get(settings["kind"], (3, 32, 32))
    with trusting(__name__):
        model = network_of(settings, shape, 4, fit=images(shape)).eval()
    checkpoint.save(tmp_path / "best.safetensors", {"classifier": model.state_dict()}, {"classifier": model})
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with trusting(__name__):
        again = checkpoint.network(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(again, model)
    assert not any(module.training for module in again.modules())
    assert description_of(again) == description_of(model) is not None
    assert model_parts(again) == model_parts(model)
    (batch,) = images(shape).in_order(12)
    answers = []
    for each in (again, model):
        torch.manual_seed(0)
        answers.append(each(torch.randn(3, each.latent) if settings["kind"] in LATENT else batch.x[:3]))
    assert torch.equal(*answers)


def test_a_network_is_built_anew_at_each_call(tmp_path: Path):
    model = network_of({"kind": "MLP", "hidden": [5]}, (1, 8, 8), 10)
    checkpoint.save(tmp_path / "best.safetensors", {"classifier": model.state_dict()}, {"classifier": model})
    assert checkpoint.network(tmp_path) is not checkpoint.network(tmp_path / "best.safetensors")


def test_every_network_that_a_recipe_can_name_is_among_them():
    listed = {name for name, kind in _KINDS.items() if repr(name) in repr(TABLES)}
    assert listed == set(_KINDS)


def test_a_description_decides_nothing(tmp_path: Path):
    torch.manual_seed(0)
    one = network_of({"kind": "MLP", "hidden": [5]}, (1, 8, 8), 10)
    two = MLP(shape=(1, 8, 8), hidden=(5,))
    two.load_state_dict(one.state_dict())
    assert description_of(two) is None
    assert model_parts(one) == model_parts(two)
    assert repr(one) == repr(two)
    odd = described(two, {"kind": "MLP", "hidden": torch.ones(3)}, (1, 8, 8), 10)
    assert description_of(odd) is None  # no plain data


SMALLEST = [
    L2LDA(width=2, steps=1, latent=3, normalise="channel", diversity=0.0),
    PGN(width=2, hidden=3, image=False),
    GAP(width=2, blocks=1),
    config.concrete(Adversary)["AdvGAN"](width=2),
]


@pytest.mark.parametrize("adversary", SMALLEST, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("alone", [True, False])
def test_players_are_built_again_from_a_trainings_folder(adversary: Adversary, alone: bool, tmp_path: Path):
    data = images((1, 16, 16))
    torch.manual_seed(0)  # of five ReLUs, none may answer for an image
    model = network_of({"kind": "MLP", "hidden": [5]}, data.shape, 4)
    game = AttackTraining(adversary) if alone else adversary
    fit(model, data, game, Training(epochs=1, batch_size=6), folder=tmp_path, progress=False)
    for name in game.players(data):
        for which in ("best", "last"):
            found = checkpoint.network(tmp_path / f"{which}.safetensors", name)
            expected = game.players(data)[name].network
            expected.load_state_dict(checkpoint.trained_weights(tmp_path, which, name))
            assert equal(found, expected)
            assert model_parts(found) == model_parts(expected)
    (batch,) = data.in_order(12)
    attack = replace(adversary, generator=str(tmp_path))
    handed = adversary.with_generator(checkpoint.network(tmp_path, "generator"))
    ours, theirs = (each(model, batch.x, batch.y, generator=batch.index) for each in (attack, handed))
    assert torch.equal(ours, theirs)


def test_every_adversary_is_among_them():
    assert {type(each) for each in SMALLEST} == {
        kind for kind in config.concrete(Adversary).values() if kind.__module__.startswith("steelman.")
    }


RECIPE = """
data = {{ kind = "Arrays", file = "{file}" }}
network = {{ kind = "MLP", hidden = [16], preprocess = "SubtractMean" }}
defence = "Plain"
training = {{ epochs = 2, batch_size = 64, images = 300, optimiser = {{ kind = "Adam", lr = 0.02 }} }}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs and a generator, the data of which are gone."""
    root = tmp_path_factory.mktemp("root")
    splits = {name: next(Digits().load(name).in_order(10**4)) for name in ("train", "test")}
    arrays = {f"{axis}_{name}": getattr(batch, axis).numpy() for name, batch in splits.items() for axis in "xy"}
    np.savez(root / "digits.npz", **arrays)
    (root / "plain.toml").write_text(RECIPE.format(file=root / "digits.npz"))
    for seed in (0, 1):
        train(str(root / "plain.toml"), root / "runs", None, [f"training.seed={seed}"], called=f"plain-{seed}")
    small = ["training.epochs=1", "training.images=100", "defence.adversary.width=2", "defence.adversary.steps=2"]
    attack_train(root / "runs" / "plain-0", "L2LDA", root / "runs", None, small, "generator")
    (root / "digits.npz").unlink()
    return root


@pytest.fixture
def batch(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("STEELMAN_DATA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError):
        Run.open(root / "runs" / "plain-0").data("test", None)
    return next(Digits().load("test").in_order(40))


def test_a_surrogate_needs_its_checkpoint_alone(root: Path, batch: Any):
    attack, target = PGD(eps=0.2, steps=3, random_start=False), MLP(shape=(1, 8, 8), hidden=(4,))
    for name in ("plain-0", "plain-0/last.safetensors", "plain-1"):
        made = Surrogate(attack, str(root / "runs" / name))(target, batch.x, batch.y)
        like = Digits().load("test")
        run = Run.open(root / "runs" / name)
        assert torch.equal(made, attack(run.network(like), batch.x, batch.y))
        assert model_parts(run.network(like)) == model_parts(checkpoint.network(root / "runs" / name))
    assert not torch.equal(made, Surrogate(attack, str(root / "runs" / "plain-0"))(target, batch.x, batch.y))


def test_a_generator_needs_its_checkpoint_alone(root: Path, batch: Any):
    attack = L2LDA(steps=2, generator=str(root / "runs" / "generator"))
    target = checkpoint.network(root / "runs" / "plain-0")
    run = Run.open(root / "runs" / "generator")
    handed = attack.with_generator(run.player("generator", Digits().load("test")))
    ours, theirs = (each(target, batch.x, batch.y, generator=batch.index) for each in (attack, handed))
    assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match=r"generator was trained with latent=8: L2LDA needs that too"):
        replace(attack, latent=4)(target, batch.x, batch.y)
    with pytest.raises(ValueError, match=r"this generator was trained with label=True: L2LDA needs that too"):
        replace(handed, label=False)(target, batch.x, batch.y)
    with pytest.raises(ValueError, match=r"generator is that of L2LDA, and PGN needs its own: .*attack-train RUN PGN"):
        PGN(generator=str(root / "runs" / "generator"))(target, batch.x, batch.y)
    with pytest.raises(ValueError, match=r"plain-0.* has no generator, only classifier: .*attack-train` trains"):
        L2LDA(generator=str(root / "runs" / "plain-0"))(target, batch.x, batch.y)
    with pytest.raises(FileNotFoundError, match=r"no-run is no run: there is no .*no-run/best\.safetensors"):
        L2LDA(generator=str(root / "no-run"))(target, batch.x, batch.y)


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_checkpoint_that_was_written_anew_is_read_anew(which: str, root: Path, batch: Any, tmp_path: Path):
    """At the same path, of the same size, and with the times of the file before."""
    attack, target = FGSM(eps=0.2), MLP(shape=(1, 8, 8), hidden=(4,))
    made = []
    for seed in (0, 1):
        theirs = root / "runs" / f"plain-{seed}" / "best.safetensors"
        ours = tmp_path / f"{which}.safetensors"
        shutil.copy(theirs, tmp_path / "new")
        (tmp_path / "new").replace(ours)
        path = tmp_path if which == "best" else ours
        made.append(Surrogate(attack, str(path))(target, batch.x, batch.y))
        assert torch.equal(made[-1], attack(checkpoint.network(theirs), batch.x, batch.y))
        assert checkpoint.shared_network(path) is checkpoint.shared_network(path)
    assert not torch.equal(*made)


def test_a_checkpoint_without_a_description_names_the_remedy(tmp_path: Path):
    old = Path(__file__).parents[1] / "data" / "old-run"
    with pytest.raises(
        ValueError, match=r"old-run.* older version.*: open it with steelman\.experiments\.run\.Run\.open"
    ):
        checkpoint.network(old)
    with pytest.raises(ValueError, match=r"older version"):
        Surrogate(FGSM(), str(old))(MLP(shape=(1, 8, 8)), torch.rand(2, 1, 8, 8), torch.arange(2))
    model = MLP(shape=(1, 8, 8), hidden=(4,))
    fit(model, Digits().load("train"), Plain(), Training(epochs=1), folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"has no description of its classifier.*trained_weights\(.*'best'"):
        checkpoint.network(tmp_path)
    again = MLP(shape=(1, 8, 8), hidden=(4,))
    again.load_state_dict(checkpoint.trained_weights(tmp_path))
    assert equal(again, model)


def test_a_network_of_a_recipe_is_built_by_the_same_function():
    assert description_of(build("MLP", shape=(1, 8, 8))) is None  # a part, not what a recipe tells
    assert isinstance(network_of({"kind": "MLP", "preprocess": "SubtractMean"}, (1, 8, 8), 3).preprocess, Preprocess)

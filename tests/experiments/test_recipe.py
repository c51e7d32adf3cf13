"""Recipes: the shipped ones, and changes to them."""

import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import shipped
from shipped import ALL
from steelman import FGSM, L2LDA, PGD, AttackTraining, Plain
from steelman.adversaries import Adversary
from steelman.data import CIFAR10, CIFAR100, Digits, ImageFolder, InMemory
from steelman.defences.generative import WassersteinGAN
from steelman.experiments.assess import attacked, battery_of
from steelman.experiments.recipe import Battery, Recipe, build, load_recipe, to_toml, trained_filters
from steelman.experiments.recipe_file import find_recipe
from steelman.experiments.run import Run, train
from steelman.experiments.starting import MAY_DIFFER
from steelman.networks import MLP, BoundedReLU, Ensemble, Preprocessed, StandardiseImage, SubtractMean
from steelman.training import Adam, Cosine

TINY = """
data = "Digits"
network = { kind = "MLP", hidden = [8] }
defence = "Plain"
training = { epochs = 2 }
[evaluation.attacks]
"FGSM .1" = { kind = "FGSM", eps = 0.1 }
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@cache
def made_up(data: type) -> InMemory:
    """Images of the shape that a data set has."""
    shapes = {Digits: (1, 8, 8), CIFAR10: (3, 32, 32), CIFAR100: (3, 32, 32), ImageFolder: (3, 67, 67)}
    shape = shapes.get(data, (1, 28, 28))
    chance = torch.Generator().manual_seed(0)
    return InMemory("made", torch.rand(20, *shape, generator=chance), torch.arange(20) % 10, tuple("0123456789"))


NETWORKS: dict[str, nn.Module] = {}


def network_of(recipe: Recipe) -> nn.Module:
    """The network of a recipe, which many recipes share; it answers images of its data."""
    key, images = f"{type(recipe.data)} {recipe.network}", made_up(type(recipe.data))
    if key not in NETWORKS:
        large = recipe.network["kind"] == "WideResNet"  # of which a small one answers, and the shapes are enough
        with torch.device("meta" if large else "cpu"):
            answers = NETWORKS[key] = build(recipe, images)
        if large:
            answers = build(replace(recipe, network=recipe.network | {"depth": 10, "width": 1}), images)
        if recipe.defence.classifies:
            assert answers(next(images.in_order(2)).x).shape == (2, 10)
    return NETWORKS[key]


def _function(recipe: Recipe) -> dict[str, Any]:
    """What of its network decides the meaning of weights."""
    return {key: value for key, value in recipe.network.items() if key not in MAY_DIFFER}


@shipped.group
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_shipped_recipe_reads_writes_and_builds(path: Path, tmp_path: Path):
    recipe = shipped.shipped(path)
    (tmp_path / "again.toml").write_text(to_toml(recipe))
    assert load_recipe(tmp_path / "again.toml") == recipe
    images, network = made_up(type(recipe.data)), network_of(recipe)
    parts = network.members if isinstance(network, Ensemble) else [network] if recipe.starts else []
    for name, part in zip(recipe.starts, parts, strict=True):
        start = shipped.shipped(path.parent / name)
        assert start.data == recipe.data
        if not isinstance(network, Ensemble):
            assert _function(start) == _function(recipe)
        if trained_filters(recipe.network):  # whose state is no part of the start
            part = part.network
        part.load_state_dict(network_of(start).state_dict())
    players = recipe.defence.players(images)
    assert isinstance(recipe.defence, Adversary | AttackTraining | WassersteinGAN) == bool(players)
    game = recipe.defence.adversary if isinstance(recipe.defence, AttackTraining) else recipe.defence
    for attack in recipe.evaluation.attacks.values():
        if (
            isinstance(attack, Adversary)
            and isinstance(game, type(attack))
            and all(getattr(attack, name) == getattr(game, name) for name in attack.sees)
        ):  # it has the generator that is trained
            quick = replace(attack, samples=1, steps=1) if isinstance(attack, L2LDA) else attack
            one = next(images.in_order(1))
            quick.with_generator(players["generator"].network)(network.eval(), one.x, one.y)


def test_there_are_shipped_recipes_and_they_are_found_by_name():
    assert len(ALL) >= 5
    for path in ALL:
        assert find_recipe(path.stem) == find_recipe(path.name) == path
    assert find_recipe(str(ALL[0])) == ALL[0]
    with pytest.raises(
        FileNotFoundError, match=r"no recipe referense_mnist_lenet; did you mean reference_mnist_lenet\?"
    ):
        find_recipe("referense_mnist_lenet")


def test_the_seed_decides_the_weights_and_the_preprocessing_is_fitted(tiny: Path):
    train = Digits().load("train")
    recipe = load_recipe(tiny, ["network.preprocess=SubtractMean"])
    one, two, other = (build(replace(recipe, training=replace(recipe.training, seed=s)), train) for s in (0, 0, 1))
    assert isinstance(one, Preprocessed)
    assert isinstance(one.preprocess, SubtractMean)
    (whole,) = train.in_order(len(train))
    torch.testing.assert_close(one.preprocess.get_buffer("mean"), whole.x.mean(0))
    assert isinstance(one.network, MLP)
    assert torch.equal(one.network.fc1.weight, two.network.fc1.weight)
    assert not torch.equal(one.network.fc1.weight, other.network.fc1.weight)


def test_bounded_relus_and_preprocessing_with_settings(tiny: Path):
    train = Digits().load("test")
    plain = build(load_recipe(tiny, []), train)
    bounded = build(load_recipe(tiny, ["network.bounded_relu=0.5", "network.preprocess.kind=StandardiseImage"]), train)
    assert isinstance(bounded, Preprocessed)
    assert isinstance(bounded.preprocess, StandardiseImage)
    assert [each.t for each in bounded.modules() if isinstance(each, BoundedReLU)] == [0.5]
    # The seed gave both the same weights.
    assert torch.equal(bounded.network.fc1.weight, plain.fc1.weight)
    given = load_recipe(tiny, ['network.preprocess={ kind = "Normalise", mean = [0.4], std = [0.2] }'])
    for fitted in (True, False):
        assert build(given, train, fitted=fitted).preprocess.get_buffer("mean").item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("training.epochs=5", lambda r: r.training.epochs == 5),
        ("training.epochs = 5", lambda r: r.training.epochs == 5),
        ("training.schedule=Cosine", lambda r: r.training.schedule == Cosine()),
        ('training.optimiser={ kind = "Adam", lr = 0.5 }', lambda r: r.training.optimiser == Adam(lr=0.5)),
        ("network.hidden=[5, 6]", lambda r: r.network == {"kind": "MLP", "hidden": [5, 6]}),
        ("defence.kind=Plain", lambda r: r.defence == Plain()),
        ("evaluation.attacks.PGD=PGD", lambda r: r.evaluation.attacks == {"FGSM .1": FGSM(eps=0.1), "PGD": PGD()}),
        ('evaluation.attacks."FGSM .1".eps=0.2', lambda r: r.evaluation.attacks == {"FGSM .1": FGSM(eps=0.2)}),
        ("evaluation.images=7", lambda r: r.evaluation.images == 7),
    ],
)
def test_changes(change: str, wanted: Callable[[Recipe], bool], tiny: Path):
    assert wanted(load_recipe(tiny, [change]))


def test_a_kind_without_settings_gets_some(tiny: Path):
    found = load_recipe(tiny, ["defence=AdversarialTraining", "defence.attack=FGSM", "defence.attack.eps=0.2"])
    assert found.defence.attack == FGSM(eps=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epochs", r"--set needs path=value, such as training\.epochs=5.*'training\.epochs'"),
        ("=5", "--set needs path=value"),
        ("evaluation.attacks.FGSM .1.eps=0.2", r"with quotes around"),
        ("training.epoch=5", r"tiny\.toml: training\.epoch: .*did you mean epochs\?"),
        ("training.epochs=many", r"training\.epochs: .*valid integer; got 'many'"),
        ("training.epochs=", r"training\.epochs: .*valid integer; got ''"),
        ("training.epochs.deep=5", r"training\.epochs is 2 in this recipe, not a table"),
        ("network.hidden.deep=5", r"network\.hidden is \[8\] in this recipe, not a table"),
        ('evaluation.attacks."FGSM .1".epps=0.2', r'evaluation\.attacks\."FGSM \.1"\.epps: .*did you mean eps\?'),
        ("evaluation.images=0", "evaluation: Battery needs images >= 1; got 0"),
        ("defense=Plain", r"defense: .*did you mean defence\?"),
    ],
)
def test_wrong_changes_are_named(change: str, message: str, tiny: Path):
    with pytest.raises(ValueError, match=message):
        load_recipe(tiny, [change])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["network.kind=LeNett"], r"network: there is no network 'LeNett'; did you mean LeNet\?"),
        (["network.kind=3"], r"network\.kind: needs a name, such as LeNet; got 3"),
        (["network.hiden=[3]"], r"network: MLP has no option 'hiden'"),
        (["network.hidden=3"], r"network: "),
        (["network.preprocess=MLP"], r"network\.preprocess: MLP is not a preprocessing layer"),
        (["network.preprocess=SubtractMeen"], r"network: .*did you mean SubtractMean\?"),
        (["network.preprocess.scale=3"], r"network: a preprocessing or filter needs a kind, such as Normalise; got "),
        (["network.bounded_relu=0"], r"network: BoundedReLU needs a bound t above 0 .*; got 0"),
        (["network.hidden=[]", "network.bounded_relu=1"], r"network: MLP has no nn\.ReLU"),
    ],
)
def test_networks_that_cannot_be_built_are_named(changes: list[str], message: str, tiny: Path):
    with pytest.raises(ValueError, match=message):
        build(load_recipe(tiny, changes), Digits().load("test"))


def test_files_that_are_no_recipes_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no recipe .*none\.toml"):
        load_recipe(tmp_path / "none.toml")
    for content in (b"data = [", b"\xff\xfe"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.toml is not TOML"):
            load_recipe(tmp_path / "bad.toml")


def test_a_written_recipe_tells_every_setting(tiny: Path):
    written = tomllib.loads(to_toml(load_recipe(tiny)))
    assert written["training"]["optimiser"] == {
        "kind": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False,
    }  # fmt: skip
    assert set(written["evaluation"]) == {
        "attacks",
        "black_box",
        "images",
        "deep_defense",
        "survivors_only",
        "probes",
        "samples",
    }
    assert isinstance(load_recipe(tiny), Recipe)
    assert load_recipe(tiny).evaluation == Battery({"FGSM .1": FGSM(eps=0.1)})


def test_an_ensemble_is_a_recipe_whose_members_are_trained_first(tiny: Path, tmp_path: Path):
    (tmp_path / "other.toml").write_text(TINY.replace("epochs = 2", "epochs = 1"))
    both = tmp_path / "both.toml"
    head, evaluation = TINY.split("[evaluation.attacks]")
    network = (
        'network = { kind = "Ensemble", members = [{ kind = "MLP", hidden = [8] }, { kind = "MLP", hidden = [8] }] }'
    )
    head = head.replace('network = { kind = "MLP", hidden = [8] }', network).replace("epochs = 2", "epochs = 0")
    both.write_text(f'start = ["tiny.toml", "other.toml"]\n{head}[evaluation.attacks]{evaluation}')
    run = train(str(both), tmp_path / "runs", None)
    test = run.data("test", None)
    ensemble = run.network(test)
    members = [Run.open(tmp_path / "runs" / name).network(test) for name in ("tiny", "other")]
    x = next(test.in_order(20)).x
    torch.testing.assert_close(ensemble(x), Ensemble(members)(x))
    subject = run.subject(None)
    assert attacked(subject, battery_of(subject), images=20, progress=False)["pixels"].images == 20
    for change in ("start=tiny.toml", "network.members=3", "network.hidden=[3]", "network.members=[{kind='LeNot'}]"):
        with pytest.raises(ValueError, match=r"start: 1 recipes for 2|Ensemble has members|members\[0\]: there is no"):
            train(str(both), tmp_path / "runs", None, [change], "wrong")

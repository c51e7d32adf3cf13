"""Recipes that begin from others: `base` and `without`."""

import os
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steelman import FGSM, PGD, AdversarialTraining
from steelman.cli.main import app
from steelman.config import merged
from steelman.experiments.recipe import load_recipe, to_toml
from steelman.experiments.recipe_file import SHIPPED, read_tables
from steelman.experiments.run import train
from steelman.training import SGD, Adam, Cosine

BASE = """
data = "Digits"
network = { kind = "MLP", hidden = [8] }
defence = { kind = "AdversarialTraining", attack = { kind = "PGD", eps = 0.1, steps = 3 }, clean_weight = 0.5 }
training = { epochs = 1, images = 100, schedule = "Cosine", optimiser = { kind = "SGD", lr = 0.5 } }
[evaluation.attacks]
"FGSM .1" = { kind = "FGSM", eps = 0.1 }
"PGD .1" = { kind = "PGD", eps = 0.1, steps = 3 }
"""


def files(folder: Path, **texts: str) -> Path:
    """Recipes by name; returns the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return folder / f"{next(iter(texts))}.toml"


def derived(folder: Path, text: str) -> Path:
    return files(folder, own=f'base = "base.toml"\n{text}', base=BASE)


def test_tables_are_merged_key_by_key(tmp_path: Path):
    path = derived(tmp_path, "training.epochs = 2\ndefence.attack.steps = 4\ntraining.optimiser.momentum = 0.0")
    recipe, base = load_recipe(path), load_recipe(tmp_path / "base.toml")
    assert (recipe.training.epochs, recipe.training.images) == (2, 100)
    assert recipe.training.optimiser == SGD(lr=0.5, momentum=0.0)
    assert recipe.defence == AdversarialTraining(PGD(eps=0.1, steps=4), clean_weight=0.5)
    assert (recipe.network, recipe.evaluation) == (base.network, base.evaluation)


def test_a_table_of_another_kind_replaces_that_of_the_base(tmp_path: Path):
    recipe = load_recipe(derived(tmp_path, 'defence.attack = { kind = "FGSM" }\ntraining.optimiser.kind = "Adam"'))
    assert recipe.defence == AdversarialTraining(FGSM(), clean_weight=0.5)
    assert recipe.training.optimiser == Adam()


def test_lists_and_values_replace_and_a_bare_kind_may_be_given_settings(tmp_path: Path):
    text = 'network.hidden = [4, 4]\ntraining.schedule = { warmup = 0.1 }\nevaluation.attacks."PGD .1" = "FGSM"'
    recipe = load_recipe(derived(tmp_path, text))
    assert recipe.network == {"kind": "MLP", "hidden": [4, 4]}
    assert recipe.training.schedule == Cosine(warmup=0.1)
    assert list(recipe.evaluation.attacks.items()) == [("FGSM .1", FGSM(eps=0.1)), ("PGD .1", FGSM())]


def test_what_merging_returns_leaves_the_base_as_it_was():
    base = {"a": {"b": {"c": 1}}, "d": "K"}
    assert merged(base, {"a": {"b": {"e": 2}}, "d": {"f": 3}}) == {
        "a": {"b": {"c": 1, "e": 2}},
        "d": {"kind": "K", "f": 3},
    }
    assert base == {"a": {"b": {"c": 1}}, "d": "K"}


def test_settings_of_the_base_are_left_out(tmp_path: Path):
    text = """without = ["training.schedule", 'evaluation.attacks."FGSM .1"']"""
    recipe = load_recipe(derived(tmp_path, text))
    assert (
        recipe.training.schedule
        == load_recipe(tmp_path / "base.toml", ["training.schedule=Constant"]).training.schedule
    )
    assert list(recipe.evaluation.attacks) == ["PGD .1"]


def test_chains_and_shipped_bases(tmp_path: Path):
    path = files(tmp_path, a='base = "b"\ntraining.epochs = 3', b='base = "plain_digits_mlp"\ntraining.seed = 9')
    recipe, shipped = load_recipe(path), load_recipe(SHIPPED[1] / "plain_digits_mlp.toml")
    assert (recipe.training.epochs, recipe.training.seed) == (3, 9)
    assert (recipe.defence, recipe.evaluation) == (shipped.defence, shipped.evaluation)


@pytest.mark.parametrize("texts", [{"a": 'base = "a.toml"'}, {"a": 'base = "b.toml"', "b": 'base = "a.toml"'}])
def test_circles_are_refused_by_name(texts: dict[str, str], tmp_path: Path):
    with pytest.raises(ValueError, match=r"\.toml: base: a\.toml begins from [ab]\.toml itself"):
        load_recipe(files(tmp_path, **texts))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.epoch = 2", r"own\.toml: training\.epoch: .*did you mean epochs\?"),
        ('defence.kind = "Plane"', r"own\.toml: defence\.kind: .*did you mean Plain\?"),
        ("training.epochs = -1", r"own\.toml: training: Training needs epochs >= 0"),
        ('training.optimiser.lr = "big"', r"own\.toml: training\.optimiser\.lr: "),
        ('without = ["training.epoch"]', r"own\.toml: without: base\.toml has no setting training\.epoch"),
        ('without = ["training.epochs.deep"]', r"own\.toml: without: base\.toml has no setting training\.epochs\.deep"),
        ('without = "data"', r"own\.toml: without: needs a list of settings"),
    ],
)
def test_errors_name_the_file_of_the_wrong_key(text: str, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        load_recipe(derived(tmp_path, text))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("epochs = 1", "epoch = 1", r"base\.toml: training\.epoch: .*did you mean epochs\?"),
        ("epochs = 1", "epochs = -1", r"base\.toml: training: Training needs epochs >= 0"),
        ('"FGSM", eps = 0.1', '"FGSM", eps = 8', r"own\.toml: evaluation: FGSM \.1: eps 8 in Linf"),
        ("steps = 3 }, clean", "stepz = 3 }, clean", r"base\.toml: defence\.attack\.stepz: "),
        ('"FGSM .1" = {', '"FGSM .1" = [', r"base\.toml is not TOML"),
    ],
)
def test_errors_name_the_base_where_the_wrong_key_is_its_own(before: str, after: str, message: str, tmp_path: Path):
    path = files(tmp_path, own='base = "base.toml"\ntraining.seed = 1', base=BASE.replace(before, after, 1))
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base = 3", r"own\.toml: base: needs the name of a recipe; got 3"),
        ('base = "plain_digits_mlpp"', r"own\.toml: base: there is no recipe .*did you mean plain_digits_mlp\?"),
        ('without = ["data"]', r"own\.toml: without: .*there is no base"),
    ],
)
def test_a_base_that_is_not_there(text: str, message: str, tmp_path: Path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_recipe(files(tmp_path, own=text))


def test_changes_are_of_the_merged_recipe(tmp_path: Path):
    path = derived(tmp_path, "training.epochs = 2")
    assert load_recipe(path, ["defence.attack.steps=5"]).defence == AdversarialTraining(
        PGD(eps=0.1, steps=5), clean_weight=0.5
    )
    for change in ("training.images=many", "training.images=0"):
        with pytest.raises(ValueError, match=r"own\.toml: training"):
            load_recipe(path, [change])


def test_a_run_does_not_depend_on_the_base(tmp_path: Path):
    path = derived(tmp_path, "training.epochs = 0")
    wanted = load_recipe(path)
    run = train(str(path), tmp_path / "runs", None)
    (tmp_path / "base.toml").unlink()
    assert load_recipe(run.folder / "recipe.toml") == wanted
    assert "base" not in tomllib.loads((run.folder / "recipe.toml").read_text())


def test_recipes_that_a_base_names_are_found_from_another_folder(tmp_path: Path):
    files(tmp_path / "theirs", base=f'start = "first.toml"\n{BASE}', first=BASE)
    path = files(tmp_path / "ours", own='base = "../theirs/base.toml"', first="data = 3")
    assert load_recipe(path).start == os.path.join("..", "theirs", "first.toml")
    path = files(tmp_path / "ours", own='base = "deep-defense_digits_mlp"')
    assert load_recipe(path).start == "plain_digits_mlp.toml"


def test_show_prints_the_whole_recipe_and_trains_nothing(tmp_path: Path):
    path = derived(tmp_path, "training.epochs = 2")
    shown = CliRunner().invoke(
        app, ["train", str(path), "--show", "--set", "training.seed=7", "--runs", str(tmp_path / "r")]
    )
    assert shown.exit_code == 0
    (tmp_path / "shown.toml").write_text(shown.stdout)
    assert load_recipe(tmp_path / "shown.toml") == load_recipe(path, ["training.seed=7"])
    assert shown.stdout == to_toml(load_recipe(path, ["training.seed=7"]))
    assert not (tmp_path / "r").exists()


def test_shipped_recipes_begin_from_shipped_ones():
    named = {path.stem: tomllib.loads(path.read_text()).get("base") for path in SHIPPED[1].glob("*.toml")}
    assert sum(base is not None for base in named.values()) > 100
    for path in SHIPPED[1].glob("*.toml"):
        assert len({file.parent for file in read_tables(path).files.values()}) == 1

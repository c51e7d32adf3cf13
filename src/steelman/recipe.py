"""A recipe: data, network, defence, training and evaluation, and the run folder that it leaves."""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steelman import config
from steelman.attacks.attack import Attack
from steelman.data.dataset import Dataset, Source
from steelman.defences.objective import Objective
from steelman.naming import nearest
from steelman.training import checkpoint
from steelman.training.fit import Training, fit, trained_weights
from steelman.training.processes import here


@dataclass(frozen=True)
class Battery:
    """What to evaluate with; the `[evaluation]` section of a recipe.

    attacks       in pixels, inside the box: a table of names and attacks
    images        the first so many test images; default all
    deep_defense  also the Deep Defense paper's measures, in the preprocessed space where there is one: rho_2 and l_2 of
                  DeepFool with 5 and 50 steps, unclipped, and accuracies at eps_ref. Default False
    """

    attacks: dict[str, Attack] = field(default_factory=dict)
    images: int | None = None
    deep_defense: bool = False


@dataclass(frozen=True)
class Recipe:
    """One result: everything that decides it.

    data        where images come from
    network     `kind` and its settings; `preprocess` names a layer that is fitted on the training set and put before it
    defence     what is descended
    training    how
    evaluation  what is measured afterwards
    start       another recipe (a path relative to this one) to begin from; it is trained first where it has not been
    """

    data: Source
    network: dict[str, Any]
    defence: Objective
    training: Training = Training()
    evaluation: Battery = Battery()
    start: str | None = None


def load_recipe(path: Path, changes: list[str] | None = None) -> Recipe:
    """Read a recipe, with changes such as "training.epochs=5" (values are TOML; a bare word is a string).

    Raises:
        FileNotFoundError, ValueError: no such file, not TOML, an unknown key or name (and the nearest right one).
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}{_near(path)}")
    try:
        settings = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    for change in changes or []:
        _change(settings, change)
    return config.read(Recipe, settings)


def _near(path: Path) -> str:
    names = [each.name for each in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    return f"; {nearest(path.name, names)}" if names else ""


def _change(settings: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"--set needs path=value, such as training.epochs=5; got {change!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *path, last = key.strip().split(".")
    place = settings
    for part in path:
        place = place.setdefault(part, {})
        if isinstance(place, str):
            raise ValueError(f"--set {change}: {part} is not a table in this recipe")
    place[last] = value


def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def build(recipe: Recipe, train: Dataset) -> nn.Module:
    """The untrained network of a recipe; the seed decides its weights."""
    from steelman import networks

    settings = dict(recipe.network)
    kind = settings.pop("kind", None)
    before = settings.pop("preprocess", None)
    if not isinstance(kind, str):
        raise ValueError(f"network.kind: needs a name, such as LeNet; got {kind!r}")
    torch.manual_seed(recipe.training.seed)
    network = networks.build(kind, shape=train.shape, classes=len(train.classes), **settings)
    if before is None:
        return network
    layer = networks.build(before, shape=train.shape)
    if not isinstance(layer, networks.Preprocess):
        raise ValueError(f"network.preprocess: {before} is not a preprocessing layer")
    return networks.Preprocessed(layer.fit(train), network)


@dataclass(frozen=True)
class Run:
    """A folder with `recipe.toml`, checkpoints, `log.jsonl` and, once evaluated, the tables and the report."""

    folder: Path
    recipe: Recipe

    @staticmethod
    def open(folder: Path) -> "Run":
        """Raises FileNotFoundError where the folder holds no run."""
        if not (folder / "recipe.toml").is_file():
            raise FileNotFoundError(f"{folder} is not a run folder: it has no recipe.toml")
        return Run(folder, load_recipe(folder / "recipe.toml"))

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def log(self) -> list[dict[str, Any]]:
        return checkpoint.load(self.folder / "last.safetensors")["log"]

    def network(self, train: Dataset, which: str = "best") -> nn.Module:
        """The trained network, by the best or the last checkpoint."""
        model = build(self.recipe, train)
        model.load_state_dict(trained_weights(self.folder, which))
        return model.to(device())


def train(path: Path, runs: Path, data: Path | None, changes: list[str] | None = None, name: str | None = None) -> Run:
    """Train a recipe in `runs`/`name`; what it starts from first. Goes on where an earlier call stopped."""
    recipe = load_recipe(path, changes)
    start = None
    if recipe.start is not None:
        start = train(path.parent / recipe.start, runs, data)
    return train_recipe(recipe, runs / (name or path.stem), data, start)


def train_recipe(recipe: Recipe, folder: Path, data: Path | None, start: Run | None = None) -> Run:
    images = recipe.data.load("train", data)
    test = recipe.data.load("test", data)
    model = build(recipe, images)
    if start is not None:
        model.load_state_dict(trained_weights(start.folder))
    run = Run(folder, recipe)
    record = _toml(recipe)
    file = folder / "recipe.toml"
    if here().first:
        if file.exists():
            _refuse_other(load_recipe(file), recipe, folder)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(record)
    fit(model.to(device()), images, recipe.defence, recipe.training, folder=folder, test=test)
    return run


def _refuse_other(old: Recipe, new: Recipe, folder: Path) -> None:
    """Evaluation may change between two calls; what was trained may not."""
    for part in ("data", "network", "defence", "start"):
        if config.write(getattr(old, part)) != config.write(getattr(new, part)):
            raise ValueError(
                f"{folder} holds a run with another {part}: name another run with --name, or delete the folder"
            )


def _toml(recipe: Recipe) -> str:
    import tomli_w

    return tomli_w.dumps(config.write(recipe))

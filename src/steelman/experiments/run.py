"""Runs: a recipe trained into a folder, evaluated there, and compared with others."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steelman import checkpoint
from steelman.adversaries.adversary import GENERATOR, Adversary, AttackTraining
from steelman.checkpoint import trained_weights
from steelman.data.dataset import Dataset
from steelman.experiments.continuing import going_on, refuse_other
from steelman.experiments.recipe import Recipe, build, load_recipe, to_toml, trained_filters
from steelman.experiments.recipe_file import beside, find_recipe
from steelman.experiments.starting import Weights, begin, is_weights
from steelman.files import write_text
from steelman.loading.subject import Subject
from steelman.loading.weights import read_state
from steelman.networks.building import device
from steelman.report.entry import Entry
from steelman.table.places import TABLE, tables_in
from steelman.table.table import Evaluation
from steelman.training.distributed import processes
from steelman.training.loop import fit
from steelman.training.prepare import Guided, Preparation
from steelman.trust import named_in, written

NAMES = "names.json"
"""In a run's folder: the names of the weights that it began from, in their order, where these were in a file."""


@dataclass(frozen=True)
class Run:
    """A folder with `recipe.toml`, checkpoints and `log.jsonl`; once evaluated also `evaluation/`.

    `which` is the checkpoint that is used: "best" by validation (the last epoch where there is none), or "last".
    """

    folder: Path
    recipe: Recipe
    which: str = "best"

    @staticmethod
    def open(path: Path) -> "Run":
        """A run by its folder, or by one of the checkpoints in it. Only its network has to be there, not its defence.

        Raises:
            FileNotFoundError: there is no run, or it has no checkpoint yet.
            ValueError: another file than one of its two checkpoints.
        """
        folder, which = (path.parent, path.stem) if path.suffix == ".safetensors" else (path, "best")
        if not (folder / "recipe.toml").is_file():
            raise FileNotFoundError(
                f"{path} is no run: there is no {folder / 'recipe.toml'}. `steelman train` makes one"
            )
        if which not in ("best", "last"):
            raise ValueError(f"a run's checkpoints are best.safetensors and last.safetensors; got {path}")
        run = Run(folder, load_recipe(folder / "recipe.toml", resolve=False), which)
        if not run.checkpoint.is_file():
            raise FileNotFoundError(f"{folder} has no {which}.safetensors yet: `steelman train` resumes it")
        return run

    @property
    def name(self) -> str:
        name = self.folder.resolve().name
        return name if self.which == "best" else f"{name} ({self.which})"

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.which}.safetensors"

    @property
    def results(self) -> Path:
        return self.folder / ("evaluation" if self.which == "best" else f"evaluation-{self.which}")

    @property
    def log(self) -> list[dict[str, Any]]:
        return checkpoint.load(self.folder / "last.safetensors", needs=("log",))["log"]

    def data(self, split: str, folder: Path | None) -> Dataset:
        assert split in ("train", "test")
        with named_in(self.folder / "recipe.toml"):
            return self.recipe.data.load(split, folder)

    def network(self, like: Dataset) -> nn.Module:
        """The trained network, in evaluation mode; `like` is any split of its data."""
        with named_in(self.folder / "recipe.toml"):
            model = build(self.recipe, like, fitted=False)
        checkpoint.fill(model, trained_weights(self.folder, self.which), self.checkpoint)
        return model.to(device()).eval()

    def player(self, name: str, like: Dataset) -> nn.Module:
        """Another network that the run trained, such as an adversary's "generator", in evaluation mode."""
        state = trained_weights(self.folder, self.which, name)
        with torch.random.fork_rng([]):
            player = self.recipe.defence.players(like)[name].network
        checkpoint.fill(player, state, self.checkpoint)
        return player.to(device()).eval()

    def generator(self, adversary: Adversary, like: Dataset) -> nn.Module:
        """The generator that the run trained for such an adversary.

        Raises:
            ValueError: the run trained none, one of another adversary, or one with other inputs.
        """
        game, kind = self.recipe.defence, type(adversary).__name__
        theirs = game.adversary if isinstance(game, AttackTraining) else game
        if not isinstance(theirs, type(adversary)):
            raise ValueError(
                f"{self.folder} has no generator of {kind}, since its defence is {game}: train one (steelman "
                f"attack-train {self.folder} {kind}) and give its run's folder as generator"
            )
        generator = self.player(GENERATOR, like)
        adversary.refuse_other(generator, f"the generator of {self.folder}")
        return generator

    def subject(self, data: Path | None) -> Subject:
        """The run as a model to evaluate.

        Raises:
            ValueError: it trained no classifier.
        """
        if not self.recipe.defence.classifies:
            raise ValueError(
                f"{self.folder} trained a {self.recipe.network.get('kind')}, which classifies nothing: evaluate a run "
                "whose filter has it, by `on`"
            )
        test, log = self.data("test", data).to(device()), self.log
        return Subject(
            name=self.name,
            model=self.network(test),
            test=test,
            training=lambda: self.data("train", data),
            results=self.results,
            home=self.folder,
            battery=self.recipe.battery,
            generator=lambda adversary: self.generator(adversary, test),
            data=type(self.recipe.data).__name__,
            info=self._info(log),
            log=log,
            recipe=to_toml(self.recipe),
        )

    def entry(self) -> Entry:
        """What reports show of the run, from its files alone: neither its network nor its images are needed.

        Raises:
            FileNotFoundError: it has not been evaluated.
        """
        if not (self.results / TABLE).is_file():
            raise FileNotFoundError(f"{self.folder} has not been evaluated: `steelman evaluate {self.folder}` does it")
        tables, log = tables_in(self.results), self.log
        return Entry(
            name=self.name,
            evaluation=tables["pixels"],
            log=log,
            info=self._info(log),
            recipe=to_toml(self.recipe),
            preprocessed=tables.get("preprocessed"),
        )

    def _info(self, log: list[dict[str, Any]]) -> dict[str, str]:
        """Facts of the run, for reports."""
        return {
            "data": str(self.recipe.data),
            "network": " ".join(str(value) for value in self.recipe.network.values()),
            "defence": " + ".join(map(str, (*self.recipe.prepare, self.recipe.defence))),
            **({"begun from": ", ".join(self.recipe.starts)} if self.recipe.starts else {}),
            "epochs": str(log[-1]["epoch"]),
            "training seed": str(self.recipe.training.seed),
            "training time": f"{sum(line.get('seconds', 0) for line in log):.0f} s",
        }


def train(name: str, runs: Path, data: Path | None, changes: list[str] | None = None, called: str | None = None) -> Run:
    """Train a recipe into `runs`/`called` (default: the recipe's name); first the recipes that it names.

    A stopped run is resumed; a finished one is returned as it is, or goes on where the recipe now has more epochs
    (`Training.ends`). A 'module:name' in `changes` is imported; one in the recipe's file only if it is trusted
    (`steelman.trust`).
    """
    with written(*changes or ()):
        path, recipe = asked_for(name, changes)
        return train_recipe(recipe, path, runs, called or path.stem, data)


def asked_for(name: str, changes: list[str] | None = None) -> tuple[Path, Recipe]:
    """A recipe by its name or path, with changes, and its file."""
    path = find_recipe(name)
    with written(*changes or ()):
        return path, load_recipe(path, changes)


def train_recipe(
    recipe: Recipe,
    path: Path,
    runs: Path,
    called: str,
    data: Path | None,
    progress: bool = True,
    announce: bool = True,
) -> Run:
    """Train a recipe; the recipes that it names are found beside `path`.

    progress  show a bar
    announce  print how the weights of a file from which it begins were loaded

    Raises:
        ValueError: `called` leads out of `runs`, or a setting of the recipe is invalid.
    """
    folder = folder_in(runs, called)
    recipe = going_on(recipe, folder)
    trained = train_named(recipe, path, runs, data)
    with named_in(path):
        images = recipe.data.load("train", data)
        model = build(recipe, images)
    begin(model, recipe, trained, images, announce)
    guides = [_guide(recipe, each) for each in recipe.prepare]
    references = tuple(None if name is None else _reference(trained[name], images) for name in guides)
    stages = Stages(recipe.prepare, references, recipe.training.seed, folder / "prepared") if recipe.prepare else None
    with named_in(path):
        test = recipe.data.load("test", data)
    how: dict[str, Any] = {"folder": folder, "test": test, "prepare": stages, "progress": progress}
    if processes().first:
        checkpoint.room_for(model, folder)
    with processes().holding(folder):
        if processes().first:
            refuse_other(recipe, folder)
            write_text(folder / "recipe.toml", to_toml(recipe))
            _write_names(folder, [trained[name] for name in recipe.starts])
        fit(model.to(device()), images, recipe.defence, recipe.training, **how)
        processes().any(False)  # the others wait until the first has written what they may read next
    return Run(folder, recipe)


def _write_names(folder: Path, starts: Sequence[Run | Weights]) -> None:
    """Keep the names of a file of weights from which a run begins, for `steelman export`; the file may go."""
    if len(starts) == 1 and isinstance(starts[0], Weights):
        write_text(folder / NAMES, json.dumps(list(starts[0].state)))


def folder_in(runs: Path, name: str) -> Path:
    """The folder of a run or sweep in `runs`; nothing is written outside of it.

    Raises:
        ValueError: the name leads out of `runs`, or to `runs` itself.
    """
    there = Path(os.path.abspath(runs / name))
    if ".." in Path(name).parts or Path(os.path.abspath(runs)) not in there.parents:
        raise ValueError(f"{name!r} is no name of a folder in {runs}: give one without '..', and no absolute path")
    return runs / name


def train_named(recipe: Recipe, path: Path, runs: Path, data: Path | None) -> dict[str, Run | Weights]:
    """The recipes that a recipe at `path` names, trained, after all of them have been checked; files of weights."""
    _check_chain(path, recipe)
    return {name: _trained(beside(path, name), runs, data, recipe) for name in _named(recipe)}


def _trained(name: str, runs: Path, data: Path | None, recipe: Recipe) -> Run | Weights:
    if is_weights(name):
        return Weights(Path(name), recipe.network)
    return Run.open(Path(name)) if _is_checkpoint(name) else train(name, runs, data)


def _is_checkpoint(name: str) -> bool:
    """Whether a name is that of a run, not of a recipe."""
    return name.endswith(".safetensors")


def _guide(recipe: Recipe, preparation: Preparation) -> str | None:
    """The recipe whose network a preparation uses."""
    if not isinstance(preparation, Guided):
        return None
    if preparation.on is None and len(recipe.starts) != 1:
        raise ValueError(
            f"prepare: {type(preparation).__name__} needs a trained network: name its recipe by `on`, or give a `start`"
        )
    return preparation.on or recipe.starts[0]


def _named(recipe: Recipe) -> list[str]:
    """The recipes that have to be trained first."""
    filters = (each.get("on") for each in trained_filters(recipe.network))
    names = [*recipe.starts, *(_guide(recipe, each) for each in recipe.prepare), *filters]
    return [name for name in dict.fromkeys(names) if name is not None]


def _check_chain(path: Path, recipe: Recipe, above: tuple[Path, ...] = ()) -> None:
    """Raises an error, before any training, where a recipe in the chain is missing, invalid or names itself."""
    above = (*above, path.resolve())
    for name in _named(recipe):
        if is_weights(beside(path, name)):
            read_state(Path(beside(path, name)))
            continue
        if _is_checkpoint(name):
            Run.open(Path(beside(path, name)))
            continue
        other = find_recipe(beside(path, name))
        if other.resolve() in above:
            raise ValueError(
                f"{path} needs {other} first, which needs {path.name} itself first: give it another start or on"
            )
        _check_chain(other, load_recipe(other), above)


def _reference(run: Run | Weights, images: Dataset) -> nn.Module:
    try:
        return run.network(images)
    except ValueError as error:
        raise ValueError(
            f"the network of {run.folder} is not for {images.name}, so it cannot guide: {error}"
        ) from error


@dataclass(frozen=True)
class Stages:
    """A recipe's preparations in sequence, each with its reference; what they make is kept in `folder`."""

    preparations: tuple[Preparation, ...]
    references: tuple[nn.Module | None, ...] = field(repr=False)
    seed: int
    folder: Path = field(repr=False)

    def __call__(self, data: Dataset) -> Dataset:
        for place, (prepare, reference) in enumerate(zip(self.preparations, self.references, strict=True)):
            # A seed for each, so that two of one kind do not draw the same noise.
            data = prepare(data, reference, seed=self.seed + place, folder=self.folder / str(place))
        return data


def entries(runs: list[Run]) -> list[Entry]:
    """Evaluated runs for one report, under names that are all different.

    Raises:
        FileNotFoundError: a run has not been evaluated.
        ValueError: a run is given twice, or the runs are not of the same data and the same images.
    """
    first = runs[0]
    for run in runs:
        check_same_data(run, first)
    found = [replace(run.entry(), name=name) for run, name in zip(runs, _distinct_names(runs), strict=True)]
    for run, entry in zip(runs, found, strict=True):
        if _images(entry.evaluation) != _images(found[0].evaluation):
            raise ValueError(
                f"{run.folder} was evaluated on {entry.evaluation.images} images and {first.folder} on "
                f"{found[0].evaluation.images}, or on other ones: evaluate both with the same --images"
            )
    return found


def check_same_data(run: Run, first: Run) -> None:
    """Raises ValueError for runs of different data."""
    if run.recipe.data != first.recipe.data:
        raise ValueError(
            f"{run.folder} is of {run.recipe.data} and {first.folder} of {first.recipe.data}: only runs of the same "
            "data can be compared"
        )


def _images(evaluation: Evaluation) -> set[tuple[int, int]]:
    return set(zip(evaluation["image"].tolist(), evaluation["label"].tolist(), strict=True))


def _distinct_names(runs: list[Run]) -> list[str]:
    """The runs' names, with as many of their parent folders as make them different."""
    parents = [run.folder.resolve().parent.parts for run in runs]
    for depth in range(1 + max(map(len, parents))):
        above = [parts[max(len(parts) - depth, 0) :] for parts in parents]
        names = ["/".join([*parts, run.name]) for parts, run in zip(above, runs, strict=True)]
        if len(set(names)) == len(runs):
            return names
    raise ValueError(f"a run is given twice: {', '.join(str(run.folder) for run in runs)}")

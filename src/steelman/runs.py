"""Runs: a recipe trained into a folder, evaluated there, and compared with others."""

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steelman import config
from steelman.adversaries.adversary import GENERATOR, Adversary, AttackTraining
from steelman.attacks.attack import Attack
from steelman.attacks.deepfool import DeepFool
from steelman.data.dataset import Dataset
from steelman.evaluation import Evaluation, FromPrediction, evaluate, reference_attacks, reference_epsilon
from steelman.evaluation.block import Space
from steelman.evaluation.entry import Entry
from steelman.evaluation.gallery import Gallery
from steelman.networks import Ensemble, Preprocessed
from steelman.recipe import Recipe, build, device, find_recipe, load_recipe, to_toml
from steelman.training import checkpoint
from steelman.training.checkpoint import trained_weights
from steelman.training.fingerprint import FREE
from steelman.training.fit import fit
from steelman.training.prepare import Guided, Preparation
from steelman.training.processes import processes


@dataclass(frozen=True)
class Run:
    """A folder with `recipe.toml`, checkpoints and `log.jsonl`; once evaluated also `evaluation/`.

    `which` is the checkpoint it stands for: "best" by validation (the last epoch where there is none), or "last".
    """

    folder: Path
    recipe: Recipe
    which: str = "best"

    @staticmethod
    def open(path: Path) -> "Run":
        """A run by its folder, or by one of the checkpoints in it.

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
        run = Run(folder, load_recipe(folder / "recipe.toml"), which)
        if not run.checkpoint.is_file():
            raise FileNotFoundError(f"{folder} has no {which}.safetensors yet; `steelman train` goes on with it")
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
        return checkpoint.load(self.folder / "last.safetensors")["log"]

    def data(self, split: str, folder: Path | None) -> Dataset:
        assert split in ("train", "test")
        return self.recipe.data.load(split, folder)

    def network(self, like: Dataset) -> nn.Module:
        """The trained network, in evaluation mode; `like` is any split of its data."""
        model = build(self.recipe, like, fitted=False)
        model.load_state_dict(trained_weights(self.folder, self.which))
        return model.to(device()).eval()

    def player(self, name: str, like: Dataset) -> nn.Module:
        """Another network that the run trained, such as an adversary's "generator", in evaluation mode."""
        state = trained_weights(self.folder, self.which, name)
        with torch.random.fork_rng([]):
            player = self.recipe.defence.players(like)[name].network
        player.load_state_dict(state)
        return player.to(device()).eval()

    def generator(self, adversary: Adversary, like: Dataset) -> nn.Module:
        """The network with which such an adversary attacks, which the run trained.

        Raises:
            ValueError: it trained none, that of another kind, or one that saw something else.
        """
        game, kind = self.recipe.defence, type(adversary).__name__
        theirs = game.adversary if isinstance(game, AttackTraining) else game
        if not isinstance(theirs, type(adversary)):
            raise ValueError(
                f"{self.folder} has no generator of {kind}, for its defence is {game}: train one (steelman "
                f"attack-train {self.folder} {kind}) and give its run's folder as generator"
            )
        saw = {name: getattr(theirs, name) for name in adversary.sees}
        other = [f"{name}={value!r}" for name, value in saw.items() if getattr(adversary, name) != value]
        if other:
            raise ValueError(
                f"the generator of {self.folder} was trained with {', '.join(other)}: {kind} needs that too"
            )
        return self.player(GENERATOR, like)

    def attacks(self, like: Dataset) -> dict[str, Attack]:
        """The run's battery, in which an adversary without a generator of its own has the run's."""
        return {
            name: attack.with_generator(self.generator(attack, like))
            if isinstance(attack, Adversary) and attack.generator is None
            else attack
            for name, attack in self.recipe.evaluation.attacks.items()
        }

    def entry(self, data: Path | None) -> Entry:
        """What reports show of the run; it has to be evaluated."""
        table = self.results / "table.parquet"
        if not table.is_file():
            raise FileNotFoundError(f"{self.folder} has not been evaluated: `steelman evaluate {self.folder}` does it")
        return self.entry_of(Evaluation.load(table), data)

    def entry_of(self, evaluation: Evaluation, data: Path | None) -> Entry:
        test = self.data("test", data).to(device())
        gallery = Gallery.of(self.network(test), test, evaluation, self.attacks(test))
        log = self.log
        info = {
            "data": str(self.recipe.data),
            "network": " ".join(str(value) for value in self.recipe.network.values()),
            "defence": " + ".join(map(str, (*self.recipe.prepare, self.recipe.defence))),
            **({"begun from": ", ".join(self.recipe.starts)} if self.recipe.starts else {}),
            "epochs": str(log[-1]["epoch"]),
            "seed": str(self.recipe.training.seed),
            "training time": f"{sum(line.get('seconds', 0) for line in log):.0f} s",
        }
        return Entry(self.name, evaluation, log, gallery, info, recipe=to_toml(self.recipe))


def train(name: str, runs: Path, data: Path | None, changes: list[str] | None = None, called: str | None = None) -> Run:
    """Train a recipe into `runs`/`called` (default: the recipe's name); first the recipes that it names.

    A run that is there already goes on where it stopped; a finished one is returned as it is.
    """
    path = find_recipe(name)
    return train_recipe(load_recipe(path, changes), path, runs, called or path.stem, data)


def train_recipe(recipe: Recipe, path: Path, runs: Path, called: str, data: Path | None) -> Run:
    """Train a recipe, the recipes of which lie beside `path`."""
    _check_chain(path, recipe)
    trained = {name: _trained(_beside(path, name), runs, data) for name in _named(recipe)}
    folder = runs / called
    images = recipe.data.load("train", data)
    model = build(recipe, images)
    _begin(model, recipe, [trained[name] for name in recipe.starts])
    guides = [_guide(recipe, each) for each in recipe.prepare]
    references = tuple(None if name is None else _reference(trained[name], images) for name in guides)
    stages = Stages(recipe.prepare, references, recipe.training.seed, folder / "prepared") if recipe.prepare else None
    if processes().first:
        if (folder / "recipe.toml").exists():
            _refuse_other(load_recipe(folder / "recipe.toml"), recipe, folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.toml").write_text(to_toml(recipe))
    test = recipe.data.load("test", data)
    fit(model.to(device()), images, recipe.defence, recipe.training, folder=folder, test=test, prepare=stages)
    processes().any(False)  # the others wait until the first has written, for they may read it next
    return Run(folder, recipe)


def _trained(name: str, runs: Path, data: Path | None) -> Run:
    return Run.open(Path(name)) if _is_checkpoint(name) else train(name, runs, data)


def _is_checkpoint(name: str) -> bool:
    """Whether a run is meant, and not a recipe."""
    return name.endswith(".safetensors")


def _guide(recipe: Recipe, preparation: Preparation) -> str | None:
    """The recipe whose network a preparation asks."""
    if not isinstance(preparation, Guided):
        return None
    if preparation.on is None and len(recipe.starts) != 1:
        raise ValueError(
            f"prepare: {type(preparation).__name__} needs a trained network: name its recipe by `on`, or give a `start`"
        )
    return preparation.on or recipe.starts[0]


def _named(recipe: Recipe) -> list[str]:
    """The recipes that have to be trained first."""
    names = [*recipe.starts, *(_guide(recipe, each) for each in recipe.prepare)]
    return [name for name in dict.fromkeys(names) if name is not None]


def _check_chain(path: Path, recipe: Recipe, above: tuple[Path, ...] = ()) -> None:
    """Raises an error, before any training, where a recipe in the chain is not there, not right or waits for itself."""
    above = (*above, path.resolve())
    for name in _named(recipe):
        if _is_checkpoint(name):
            Run.open(Path(_beside(path, name)))
            continue
        other = find_recipe(_beside(path, name))
        if other.resolve() in above:
            raise ValueError(
                f"{path} waits for {other}, which waits for {path.name} itself: give it another start or on"
            )
        _check_chain(other, load_recipe(other), above)


def _beside(path: Path, name: str) -> str:
    """What a recipe at `path` names: it lies beside it, or is a shipped one, or in the working directory."""
    beside = path.parent / name
    return str(beside if beside.is_file() else name)


def _reference(run: Run, images: Dataset) -> nn.Module:
    try:
        return run.network(images)
    except RuntimeError as error:
        raise ValueError(
            f"the network of {run.folder} is not for {images.name}, so it cannot guide: {error}"
        ) from error


@dataclass(frozen=True)
class Stages:
    """A recipe's preparations one after the other, each with its reference; what they make is kept in `folder`."""

    preparations: tuple[Preparation, ...]
    references: tuple[nn.Module | None, ...] = field(repr=False)
    seed: int
    folder: Path = field(repr=False)

    def __call__(self, data: Dataset) -> Dataset:
        for place, (prepare, reference) in enumerate(zip(self.preparations, self.references, strict=True)):
            # A seed for each: two of one kind are not to draw the same noise.
            data = prepare(data, reference, seed=self.seed + place, folder=self.folder / str(place))
        return data


def _begin(model: nn.Module, recipe: Recipe, starts: list[Run]) -> None:
    whole = [start.recipe.network for start in starts] == [recipe.network]
    parts = list(model.members) if isinstance(model, Ensemble) and starts and not whole else [model][: len(starts)]
    if len(parts) != len(starts):
        raise ValueError(f"start: {len(starts)} recipes for {len(parts)} networks; an Ensemble has one for each member")
    for part, start in zip(parts, starts, strict=True):
        try:
            part.load_state_dict(trained_weights(start.folder, start.which))
        except RuntimeError as error:
            raise ValueError(f"this recipe's network is not that of {start.folder}, its start: {error}") from error


def _refuse_other(old: Recipe, new: Recipe, folder: Path) -> None:
    """How a run is evaluated may change between two calls; what was trained may not."""
    before, now = config.write(old), config.write(new)
    free = ("evaluation", *(f"training.{name}" for name in FREE))
    changed = [path for path in config.differences(before, now) if not path.startswith(free)]
    if changed:
        raise ValueError(
            f"{folder} holds a run with another {' and '.join(changed)}: "
            "give this one another --name, or delete that one"
        )


def entries(runs: list[Run], data: Path | None) -> list[Entry]:
    """Evaluated runs as one report shows them, under names that tell them apart.

    Raises:
        FileNotFoundError: one has not been evaluated.
        ValueError: a run is given twice, or they are not of the same data and the same images.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.recipe.data != first.recipe.data:
            raise ValueError(
                f"{run.folder} is of {run.recipe.data} and {first.folder} of {first.recipe.data}: "
                "only runs of the same data can be compared"
            )
    found = [replace(run.entry(data), name=name) for run, name in zip(runs, _told_apart(runs), strict=True)]
    for run, entry in zip(runs, found, strict=True):
        if _images(entry.evaluation) != _images(found[0].evaluation):
            raise ValueError(
                f"{run.folder} was evaluated on {entry.evaluation.images} images and {first.folder} on "
                f"{found[0].evaluation.images}, or on other ones: evaluate both with the same --images"
            )
    return found


def _images(evaluation: Evaluation) -> set[tuple[int, int]]:
    return set(zip(evaluation["image"].tolist(), evaluation["label"].tolist(), strict=True))


def _told_apart(runs: list[Run]) -> list[str]:
    """The runs' names, with as many of their parent folders as it takes to make them different."""
    parents = [run.folder.resolve().parent.parts for run in runs]
    for depth in range(1 + max(map(len, parents))):
        above = [parts[max(len(parts) - depth, 0) :] for parts in parents]
        names = ["/".join([*parts, run.name]) for parts, run in zip(above, runs, strict=True)]
        if len(set(names)) == len(runs):
            return names
    raise ValueError(f"a run is given twice: {', '.join(str(run.folder) for run in runs)}")


def evaluate_run(
    run: Run, data: Path | None, images: int | None = None, eps_ref: float | None = None, progress: bool = True
) -> Evaluation:
    """The table of a run's battery. `eps_ref` is that of the model it is compared with; default: its own."""
    battery = run.recipe.evaluation
    model, test, space = _subject(run, data, images)
    table = evaluate(model, test, run.attacks(test), progress=progress)
    if not battery.deep_defense:
        return table
    own = {f"DeepFool {steps}": FromPrediction(DeepFool(steps=steps, box=None)) for steps in (5, 50)}
    try:
        own |= reference_attacks(eps_ref or reference_epsilon(model, test, space=space))
    except ValueError as error:
        warnings.warn(f"{run.folder}: no accuracies at eps_ref, since {error}", stacklevel=2)
    return table + evaluate(model, test, own, space=space, progress=progress)


def reference_of(run: Run, data: Path | None, images: int | None = None) -> float:
    """eps_ref of a run's model on its test images."""
    model, test, space = _subject(run, data, images)
    return reference_epsilon(model, test, space=space)


def _subject(run: Run, data: Path | None, images: int | None) -> tuple[nn.Module, Dataset, Space]:
    """The network, the test images, and the space in which Deep Defense's measures are taken."""
    test = run.data("test", data).to(device())
    count = images or run.recipe.evaluation.images
    if count is not None:
        test = test.subset(torch.arange(min(count, len(test))))
    model = run.network(test)
    return model, test, "preprocessed" if isinstance(model, Preprocessed) else "pixels"

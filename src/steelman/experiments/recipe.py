"""A recipe: everything that decides one result, as TOML and as data."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steelman import config
from steelman.attacks.core.radius import check_radii
from steelman.classes import unresolved_kept
from steelman.data.dataset import Dataset, Source
from steelman.defences.game import Game
from steelman.evaluation.battery import Battery, written_out
from steelman.experiments.recipe_file import read_tables
from steelman.networks.building import network_of
from steelman.training.prepare import Preparation
from steelman.training.settings import Training


@dataclass(frozen=True)
class Recipe:
    """One result: everything that decides it. Its file may begin from another recipe (`read_tables`).

    data        where images come from
    network     `kind` and its settings; `init = { std = 0.01 }` draws its first weights (`networks.NormalInit`);
                `bounded_relu = 1.0` bounds its ReLUs; `preprocess` names a layer, or gives its `kind` and settings,
                that is fitted on the training set where it needs that, and put before it; `filter` likewise names one
                of `steelman.filters` that is put before both. An `Ensemble` has `members`, each such a table. A filter
                with a trained `network` has that as such a table, and its weights from the recipe that it names by `on`
    defence     what is descended
    training    how
    evaluation  what is measured afterwards
    start       another recipe (a path relative to this one) to begin from, or one for each member of an Ensemble; it is
                trained first where it has not been. Or a run's checkpoint, such as runs/NAME/best.safetensors; or
                weights of your own for this network (.pt, .pth, .safetensors), alone or as other programs wrap them
    prepare     what is done to the training images beforehand, in this order; a recipe that one names by `on` is
                trained first where it has not been
    """

    data: Source
    network: dict[str, Any]
    defence: Game
    training: Training = Training()
    evaluation: Battery = Battery()
    start: str | tuple[str, ...] | None = None
    prepare: tuple[Preparation, ...] = ()

    def __post_init__(self) -> None:
        check_radii({"defence": self.defence, "prepare": self.prepare, "training": self.training})
        if not self.defence.frozen:
            return
        if self.start is None:
            raise ValueError(
                f"{type(self.defence).__name__} attacks a trained classifier: give its recipe or checkpoint as start"
            )
        if idle := self.training.for_the_classifier:
            raise ValueError(
                f"training.{idle[0]} does nothing here, where the classifier stays as it is: leave it out (the "
                "adversary has an optimiser and a schedule of its own, and chooses the best epoch)"
            )

    @property
    def battery(self) -> Battery | None:
        """The attacks of the recipe's own; None where it has none."""
        return self.evaluation if self.evaluation.attacks or self.evaluation.deep_defense else None

    @property
    def starts(self) -> tuple[str, ...]:
        return () if self.start is None else (self.start,) if isinstance(self.start, str) else self.start


def trained_filters(network: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings of filters that have a trained network, of a network or of an Ensemble's members."""
    members = network.get("members")
    parts = [network, *(members if isinstance(members, list) else [])]
    found = [each.get("filter") for each in parts if isinstance(each, dict)]
    return [each for each in found if isinstance(each, dict) and "network" in each]


def load_recipe(path: Path, changes: list[str] | None = None, *, resolve: bool = True) -> Recipe:
    """Read a recipe, with changes such as "training.epochs=5" (values are TOML; a bare word is a string).

    resolve  False: in place of a class 'module:Class' that is gone or not trusted there is an `Unresolved`

    Raises:
        FileNotFoundError, ValueError: no such file, not TOML, an unknown key or name (and the nearest right one). The
            message names the file that has the key: this one, or one that it begins from.
        Untrusted: a class that is not trusted.
    """
    tables = read_tables(path)
    try:
        tables = tables.changed(changes)
        with nullcontext() if resolve else unresolved_kept():
            return read_recipe(tables.settings)
    except ValueError as error:
        raise tables.located(error) from error


def read_recipe(settings: dict[str, Any]) -> Recipe:
    """A recipe from TOML's tables; a battery that its evaluation names is written out in it.

    Raises:
        ValueError: an unknown key or name (and the nearest right one), an invalid value.
    """
    evaluation, data = settings.get("evaluation"), settings.get("data")
    if isinstance(evaluation, dict):
        name = data.get("kind") if isinstance(data, dict) else data
        try:
            evaluation = written_out(evaluation, name if isinstance(name, str) else None)
        except ValueError as error:
            raise ValueError(f"evaluation: {error}") from error
        settings = settings | {"evaluation": evaluation}
    return config.read(Recipe, settings)


def build(recipe: Recipe, train: Dataset, *, fitted: bool = True) -> nn.Module:
    """The untrained network of a recipe; the seed decides its weights.

    The preprocessing is fitted on `train`; where a checkpoint is about to be loaded instead, any split will do.
    """
    torch.manual_seed(recipe.training.seed)
    return network_of(recipe.network, train.shape, len(train.classes), fit=train if fitted else None)


def to_toml(recipe: Recipe) -> str:
    """The recipe with every setting written out; `load_recipe` reads it back to an equal one."""
    import tomli_w

    return tomli_w.dumps(config.write(recipe))

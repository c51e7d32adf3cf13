"""A recipe: everything that decides one result, as TOML and as data."""

import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steelman import config
from steelman.attacks.core.radius import check_radii
from steelman.data.dataset import Dataset, Source
from steelman.decoding import parse_toml
from steelman.defences.game import Game
from steelman.evaluation.battery import Battery, written_out
from steelman.naming import nearest
from steelman.networks.building import network_of
from steelman.training.prepare import Preparation
from steelman.training.settings import Training


@dataclass(frozen=True)
class Recipe:
    """One result: everything that decides it.

    data        where images come from
    network     `kind` and its settings; `bounded_relu = 1.0` bounds its ReLUs; `preprocess` names a layer, or gives its
                `kind` and settings, that is fitted on the training set where it needs that, and put before it;
                `filter` likewise names one of `steelman.filters` that stands before both. An `Ensemble` has `members`,
                each such a table
    defence     what is descended
    training    how
    evaluation  what is measured afterwards
    start       another recipe (a path relative to this one) to begin from, or one for each member of an Ensemble; it is
                trained first where it has not been. Or a run's checkpoint, such as runs/NAME/best.safetensors
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
    def starts(self) -> tuple[str, ...]:
        return () if self.start is None else (self.start,) if isinstance(self.start, str) else self.start


SHIPPED = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes")
"""Where shipped recipes lie: in an installed package, and in a checkout."""


def find_recipe(name: str) -> Path:
    """A recipe's file: a path, or the name of a shipped recipe with or without ".toml".

    Raises:
        FileNotFoundError: there is neither; names the nearest shipped one.
    """
    stem = name.removesuffix(".toml")
    for path in (Path(name), Path(f"{stem}.toml"), *(folder / f"{stem}.toml" for folder in SHIPPED)):
        if path.is_file():
            return path
    names = [path.stem for folder in SHIPPED for path in folder.glob("*.toml")]
    raise FileNotFoundError(f"there is no recipe {name}; {nearest(Path(stem).name, names)}")


def load_recipe(path: Path, changes: list[str] | None = None) -> Recipe:
    """Read a recipe, with changes such as "training.epochs=5" (values are TOML; a bare word is a string).

    Raises:
        FileNotFoundError, ValueError: no such file, not TOML, an unknown key or name (and the nearest right one).
    """
    return config.read_file(path, "recipe", lambda settings: read_recipe(changed(settings, changes)))


def read_recipe(settings: dict[str, Any]) -> Recipe:
    """The recipe that TOML's tables tell; a battery that its evaluation names is written out, for the record.

    Raises:
        ValueError: an unknown key or name (and the nearest right one), a value that cannot be.
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


def changed(settings: dict[str, Any], changes: list[str] | None) -> dict[str, Any]:
    """What a recipe's TOML says, with changes."""
    settings = deepcopy(settings)
    for change in changes or []:
        _change(settings, change)
    return settings


def _change(settings: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    path = parts_of(key) if equals else []
    if not path:
        raise ValueError(
            "--set needs path=value, such as training.epochs=5, with quotes around what is no single word: "
            f"'evaluation.attacks.\"PGD .1\".eps=0.2'; got {change!r}"
        )
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    place: Any = settings
    for step, part in enumerate(path[:-1], start=1):
        inner = place.setdefault(part, {})
        if isinstance(inner, str):  # a kind without settings gets some
            inner = place[part] = {"kind": inner}
        if not isinstance(inner, dict):
            raise ValueError(f"--set {change}: {'.'.join(path[:step])} is {inner!r} in this recipe, not a table")
        place = inner
    place[path[-1]] = value


def parts_of(text: str) -> list[str]:
    """The parts of a dotted TOML key; none when it is not one."""
    if re.search(r"\s", re.sub(r"\"[^\"]*\"|'[^']*'", "", text.strip())):
        return []  # TOML would read "FGSM .1" as "FGSM.1"
    try:
        place = parse_toml(f"{text} = 0")
    except ValueError:
        return []
    parts = []
    while isinstance(place, dict):
        if len(place) != 1:
            return []
        (part,) = place
        parts.append(part)
        place = place[part]
    return parts


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

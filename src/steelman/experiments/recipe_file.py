"""A recipe's file: found by its name, read together with the recipe that it begins from, and changed by `--set`."""

import os
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelman import config
from steelman.config import join
from steelman.files import parse_toml
from steelman.naming import nearest

SHIPPED = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes")
"""The folders of the shipped recipes: in an installed package, and in a checkout."""


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


def beside(path: Path, name: str) -> str:
    """The recipe that one at `path` names: a file beside it, in the working directory, or a shipped one."""
    there = (path.parent / each for each in (name, f"{name}.toml"))
    found = next((each for each in there if each.is_file()), None)
    if found is None:
        return name
    short = Path(os.path.normpath(found))  # another file where a folder in the path is a link
    return str(short if short.is_file() and short.samefile(found) else found)


@dataclass(frozen=True)
class Tables:
    """The settings of a recipe, with those of the recipes that it begins from.

    files  the file that has each setting, by the setting's path
    """

    path: Path
    settings: dict[str, Any]
    files: dict[str, Path]

    def located(self, error: ValueError) -> ValueError:
        """The same error, with the name of the file before it that has the wrong setting."""
        text = str(error)
        path, _, message = text.partition(": ")
        here = [each for each in self.files if re.match(rf"{re.escape(each)}(?![\w-])", text)]
        if here:
            return config.in_file(self.files[max(here, key=len)], error)
        # The error is about a table, and its message may name a setting in it.
        below = {
            each.removeprefix(f"{path}."): file for each, file in self.files.items() if each.startswith(f"{path}.")
        }
        named = {file for key, file in below.items() if re.search(rf"\b{re.escape(key)}\b", message)}
        return config.in_file(named.pop() if len(named) == 1 else self.path, error)

    def changed(self, changes: list[str] | None) -> "Tables":
        """With changes such as "training.epochs=5"; they count as the recipe's own."""
        files = dict(self.files)
        for change in changes or []:
            key = join_all(parts_of(change.partition("=")[0]))
            files = {each: file for each, file in files.items() if not each.startswith(f"{key}.")} | {key: self.path}
        return Tables(self.path, changed(self.settings, changes), files)


def read_tables(path: Path, above: tuple[Path, ...] = ()) -> Tables:
    """A recipe's settings over those of the recipe that it names as `base`, without those that it names in `without`.

    Raises:
        FileNotFoundError, ValueError: no such file, not TOML, no such base, or one that begins from this recipe.
    """
    own = config.parse_file(path, "recipe")
    name, without = own.pop("base", None), own.pop("without", [])
    if name is None:
        if without:
            raise ValueError(f"{path}: without: it leaves out settings of a base, and there is no base")
        return Tables(path, own, dict.fromkeys(_paths(own), path))
    if not isinstance(name, str):
        raise ValueError(f"{path}: base: needs the name of a recipe; got {name!r}")
    try:
        there = find_recipe(beside(path, name))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: base: {error}") from error
    above = (*above, path.resolve())
    if there.resolve() in above:
        raise ValueError(f"{path}: base: {name} begins from {path.name} itself: give one of them another base")
    base = read_tables(there, above)
    settings = _without(base, path, without) if without else base.settings
    settings = config.merged(_moved(settings, there, path), own)
    files = base.files | dict.fromkeys(_paths(own), path)
    found = {each: files.get(each) or files[each.removesuffix(".kind")] for each in _paths(settings)}
    return Tables(path, settings, found)


def _without(base: Tables, path: Path, keys: Any) -> dict[str, Any]:
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise ValueError(f"{path}: without: needs a list of settings, such as ['training.schedule']; got {keys!r}")
    settings = deepcopy(base.settings)
    for key in keys:
        *tables, last = parts_of(key) or [key]
        place: Any = settings
        for part in tables:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise ValueError(f"{path}: without: {base.path.name} has no setting {key}")
        del place[last]
    return settings


def _moved(settings: dict[str, Any], there: Path, here: Path) -> dict[str, Any]:
    """A base's settings, in which the names of other recipes mean the same files from another folder."""

    def moved(name: Any) -> Any:
        file = there.parent / name if isinstance(name, str) else there
        if file == there or not file.is_file():
            return name
        try:
            same = find_recipe(beside(here, name)).resolve() == file.resolve()
        except FileNotFoundError:
            same = False
        return name if same else os.path.relpath(file, here.parent)

    if there.parent.resolve() == here.parent.resolve():
        return settings
    start, prepare = settings.get("start"), settings.get("prepare")
    more = {"start": [moved(each) for each in start] if isinstance(start, list) else moved(start)}
    if isinstance(prepare, list):
        found = (
            {**each, "on": moved(each["on"])} if isinstance(each, dict) and "on" in each else each for each in prepare
        )
        more["prepare"] = list(found)
    if isinstance(network := settings.get("network"), dict):
        more["network"] = _filter_moved(network, moved)
    return settings | {key: value for key, value in more.items() if key in settings}


def _filter_moved(network: dict[str, Any], moved: Callable[[Any], Any]) -> dict[str, Any]:
    """A network's settings, or those of an Ensemble, with what their filters name by `on` moved."""
    filter, members = network.get("filter"), network.get("members")
    network = dict(network)
    if isinstance(filter, dict) and "on" in filter:
        network["filter"] = {**filter, "on": moved(filter["on"])}
    if isinstance(members, list):
        network["members"] = [_filter_moved(each, moved) if isinstance(each, dict) else each for each in members]
    return network


def _paths(settings: Any, path: str = "") -> Iterator[str]:
    """The paths of all settings; what is no table is one."""
    if isinstance(settings, dict) and settings:
        for key, value in settings.items():
            yield from _paths(value, join(path, key))
    else:
        yield path


def join_all(parts: list[str]) -> str:
    path = ""
    for part in parts:
        path = join(path, part)
    return path


def changed(settings: dict[str, Any], changes: list[str] | None) -> dict[str, Any]:
    """Settings with changes such as "training.epochs=5"."""
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

"""One model among those that a report, a table or a picture shows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from steelman.evaluation.checkup.checkup import Checkup
from steelman.evaluation.curves.curves import call_settings
from steelman.evaluation.measures import Measure, measures, same_images
from steelman.evaluation.report.gallery import Gallery
from steelman.evaluation.table import CLEAN, Evaluation


@dataclass(frozen=True)
class Entry:
    """One model of a report.

    name        how the report calls it
    evaluation  its table
    log         its training, one mapping per epoch with "epoch" and any of the keys of `plots.LOGGED`, as far as they
                are known; epoch 0 is before training
    gallery     a few images attacked
    info        what else a reader should know: data, network, defence, seed, time
    checkup     what was found of the model before it was attacked
    recipe      the recipe as TOML, where the model has one, for who wants to do it again
    """

    name: str
    evaluation: Evaluation
    log: Sequence[Mapping[str, Any]] = ()
    gallery: Gallery | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    checkup: Checkup | None = None
    recipe: str = ""

    @cached_property
    def spaces(self) -> dict[str, Evaluation]:
        """The table's rows by space, sorted once for all who read them."""
        return {space: self.evaluation.only(space=space) for space in self.evaluation.spaces}

    @cached_property
    def measures(self) -> dict[str, Measure]:
        return measures(self.evaluation)

    def __repr__(self) -> str:
        return f"Entry({self.name!r}, {self.evaluation!r})"

    def _repr_markdown_(self) -> str:
        """All measures, for notebooks."""
        from steelman.evaluation.report.papers import measures_table

        return measures_table([self]).markdown()


def comparable(entries: Sequence[Entry]) -> list[Entry]:
    """The entries as they may stand side by side.

    Where models met different attacks under one name (FGSM at each one's own eps_ref, say), the name is followed by
    what differs in the attacks' parameters, so that their numbers stand in different rows.

    Raises:
        ValueError: there are none, two of one name, or models that were evaluated on different images.
    """
    if not entries:
        raise ValueError("a report needs at least one model")
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two models are called {name}; give them different names")
    for entry in entries[1:]:
        _refuse_other_images(entries[0], entry)
    meant: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        for cell, parameters in entry.evaluation.parameters.items():
            meant.setdefault(cell, set()).add(parameters)
    new = {
        (cell, parameters): f"{cell[0]}: {different}"
        for cell, found in meant.items()
        if len(found) > 1
        for parameters, different in _different(found).items()
    }

    def told_apart(entry: Entry) -> Entry:
        names = {cell: new[cell, said] for cell, said in entry.evaluation.parameters.items() if (cell, said) in new}
        return replace(entry, evaluation=entry.evaluation.renamed(names)) if names else entry

    return [told_apart(entry) for entry in entries]


def _different(calls: Collection[str]) -> dict[str, str]:
    """By call, those of its settings that not all have; the whole call where that does not tell them apart."""
    parts = {call: call_settings(call) for call in calls}
    shown = {
        call: ", ".join(
            f"{name}={_short(value)}"
            for name, value in own.items()
            if any(other.get(name) != value for _, other in parts.values())
        )
        for call, (_, own) in parts.items()
    }
    kinds = {kind for kind, _ in parts.values()}
    return shown if len(kinds) == 1 and len(set(shown.values())) == len(shown) else {call: call for call in calls}


def _short(value: str) -> str:
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def _refuse_other_images(first: Entry, other: Entry) -> None:
    """Raises ValueError where two models were not evaluated on the same images."""
    spaces = [space for space in first.evaluation.spaces if space in other.evaluation.spaces]
    if not spaces:
        raise ValueError(
            f"{first.name} was evaluated in {first.evaluation.spaces[0]} and {other.name} in "
            f"{other.evaluation.spaces[0]}: numbers of two spaces cannot be compared"
        )
    space = "pixels" if "pixels" in spaces else spaces[0]
    ours, theirs = (each.evaluation.only(CLEAN, space) for each in (first, other))
    try:
        same_images(ours, theirs)
    except ValueError as error:
        raise ValueError(f"{first.name} and {other.name} cannot stand side by side: {error}") from error


def measured(entries: Sequence[Entry]) -> list[str]:
    """Every measure that any of the models has, in the order in which they first come up."""
    return list(dict.fromkeys(name for entry in entries for name in entry.measures))

"""One model among those that a report, a table or a picture shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from steelman.evaluation.checkup import Checkup
from steelman.evaluation.gallery import Gallery
from steelman.evaluation.measures import Measure, measures
from steelman.evaluation.table import Evaluation


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
    def measures(self) -> dict[str, Measure]:
        return measures(self.evaluation)


def comparable(entries: Sequence[Entry]) -> list[Entry]:
    """The entries as they may stand side by side.

    Where models met different attacks under one name (FGSM at each one's own eps_ref, say), the name is followed by the
    attack's parameters, so that their numbers stand in different rows.

    Raises:
        ValueError: there are none, or two of one name.
    """
    if not entries:
        raise ValueError("a report needs at least one model")
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two models are called {name}; give them different names")
    meant: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        for cell, parameters in entry.evaluation.parameters.items():
            meant.setdefault(cell, set()).add(parameters)
    new = {
        (cell, parameters): f"{cell[0]}: {parameters}"
        for cell, found in meant.items()
        if len(found) > 1
        for parameters in found
    }

    def told_apart(entry: Entry) -> Entry:
        names = {cell: new[cell, said] for cell, said in entry.evaluation.parameters.items() if (cell, said) in new}
        return replace(entry, evaluation=entry.evaluation.renamed(names)) if names else entry

    return [told_apart(entry) for entry in entries]


def measured(entries: Sequence[Entry]) -> list[str]:
    """Every measure that any of the models has, in the order in which they first come up."""
    return list(dict.fromkeys(name for entry in entries for name in entry.measures))

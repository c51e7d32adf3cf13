"""One model of a report, and the models of a report side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from steelman.checkup.findings import Checkup
from steelman.measures import Measure
from steelman.measures.all_measures import measures_and_gaps
from steelman.measures.pairwise import same_images
from steelman.report.gallery import Gallery
from steelman.table.records import Record, shown
from steelman.table.table import Evaluation


@dataclass(frozen=True)
class Entry:
    """One model of a report.

    name        of the model in the report
    evaluation  its table; in pixels, unless it has no such one
    log         its training, one mapping per epoch with "epoch" and any of the keys of `curves.LOGGED`; epoch 0 is
                before training
    gallery     a few images attacked
    info        what else a reader should know: data, network, defence, seed, time
    checkup     what the check-up before the attacks reported
    recipe      the recipe as TOML, where the model has one
    preprocessed  its table behind the preprocessing, where it has one beside that in pixels
    again       the command that evaluates it, `steelman evaluate RUN`, where it is a run
    asked       the norm and radius that were asked for, which the verdict is of
    explained   Python that repeats the adaptive attacks, where there were any
    """

    name: str
    evaluation: Evaluation
    log: Sequence[Mapping[str, Any]] = ()
    gallery: Gallery | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    checkup: Checkup | None = None
    recipe: str = ""
    preprocessed: Evaluation | None = None
    again: str = ""
    asked: tuple[str, float] | None = None
    explained: str = ""

    @cached_property
    def spaces(self) -> dict[str, Evaluation]:
        """The tables by space."""
        tables = (self.evaluation, *([] if self.preprocessed is None else [self.preprocessed]))
        return {table.space: table for table in tables}

    @cached_property
    def _measured(self) -> tuple[dict[str, Measure], dict[str, str]]:
        return measures_and_gaps(*self.spaces.values())

    @property
    def measures(self) -> dict[str, Measure]:
        return self._measured[0]

    @property
    def unmeasured(self) -> dict[str, str]:
        return self._measured[1]

    def __repr__(self) -> str:
        return f"Entry({self.name!r}, {self.evaluation!r})"

    def _repr_markdown_(self) -> str:
        """All measures, for notebooks."""
        from steelman.report.papers import measures_table

        return measures_table([self]).markdown()


def comparable(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries as they may be shown side by side.

    Where models were attacked by different attacks of one name (FGSM at each one's own eps_ref, say), the settings that
    differ are added to the name, so that their numbers are in different rows.

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
        _check_same_images(entries[0], entry)
    tables = [table for entry in entries for table in entry.spaces.values()]
    records: dict[tuple[str, str], dict[str, Record]] = {}
    for table in tables:
        for record in table.records:
            if record.kind:
                records.setdefault((table.space, record.name), {}).setdefault(record.method, record)
    new = {
        (space, name, method): f"{name}: {difference}"
        for (space, name), methods in records.items()
        if len(methods) > 1
        for method, difference in _differences(methods).items()
    }

    def renamed(table: Evaluation | None) -> Evaluation | None:
        keys = {} if table is None else {each.name: (table.space, each.name, each.method) for each in table.records}
        names = {name: new[key] for name, key in keys.items() if key in new}
        return table.renamed(names) if table is not None and names else table

    changed = [(entry, renamed(entry.evaluation), renamed(entry.preprocessed)) for entry in entries]
    return tuple(
        entry
        if (table, behind) == (entry.evaluation, entry.preprocessed)
        else replace(entry, evaluation=table, preprocessed=behind)
        for entry, table, behind in changed
    )


def _differences(records: Mapping[str, Record]) -> dict[str, str]:
    """By method, the settings of an attack that not all share; its call where these are not enough."""
    own = {
        method: {name: _short(value) for name, value in (each.settings or {}).items()}
        for method, each in records.items()
    }
    different = {
        method: ", ".join(
            f"{name}={value}"
            for name, value in settings.items()
            if any(other.get(name) != value for other in own.values())
        )
        for method, settings in own.items()
    }
    kinds = {settings.get("kind") for settings in own.values()}
    if len(kinds) == 1 and len(set(different.values())) == len(records):
        return different
    calls = {method: record.call for method, record in records.items()}
    if len(set(calls.values())) == len(calls):
        return calls
    return {method: f"{call} ({method[:6]})" for method, call in calls.items()}  # they hold other models, say


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def _check_same_images(first: Entry, other: Entry) -> None:
    ours, theirs = first.evaluation, other.evaluation
    if ours.space != theirs.space:
        raise ValueError(
            f"{first.name} was evaluated in {ours.space} and {other.name} in {theirs.space}: numbers of two spaces "
            "cannot be compared"
        )
    try:
        same_images(ours, theirs)
    except ValueError as error:
        raise ValueError(f"{first.name} and {other.name} cannot be compared: {error}") from error


def measured(entries: Sequence[Entry]) -> list[str]:
    """Every measure that any of the models has, in the order in which they first come up."""
    return list(dict.fromkeys(name for entry in entries for name in entry.measures))

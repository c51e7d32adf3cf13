"""Results in the shape of the papers' tables."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from steelman.measures import (
    Measure,
    Unmeasured,
    accuracy,
    average_accuracy,
    clean_accuracy,
    empirical_robustness,
    l_2,
    mean_norm,
    minimum,
    rho_2,
    rho_cw,
    rho_inf,
    robust_accuracy,
)
from steelman.measures.all_measures import along_radii, explained
from steelman.measures.paper_table import Cell, PaperTable, TableColumn
from steelman.measures.transfer import Transfer
from steelman.norms import NORMS
from steelman.report.entry import Entry, comparable, measured
from steelman.table.records import Record

Shape: TypeAlias = Literal[
    "auto", "all", "deep-defense", "deep-defense-2", "efficient-defenses", "l2l-da", "pgn", "mma"
]
SHAPES: tuple[Shape, ...] = get_args(Shape)

NEITHER = ("PASS", "LossSensitivity", "TrainingSetDistance", "CLEVER")
"""Probes' labels: of what they measure, more is not known to be better."""


class UsedAttack(NamedTuple):
    """An attack that was run on some of the models, and in which space."""

    name: str
    space: str
    record: Record

    def leaves(self, reference: str, norm: str) -> bool:
        return self.record.reference == reference and self.record.norm == norm

    def by(self, measure: Callable[..., Measure], *values: Any) -> "Fill":
        """A measure of this attack."""
        return _measure(measure, self.name, *values, space=self.space, of=[self.name])


@dataclass(frozen=True)
class Available:
    """The models, attacks and transfers of which a shape takes its columns."""

    entries: Sequence[Entry]
    attacks: Sequence[UsedAttack]
    transfer: Sequence[Transfer]

    @cached_property
    def threats(self) -> dict[tuple[str, float], list[str]]:
        """In pixels, the bounded attacks by norm and radius."""
        found: dict[tuple[str, float], list[str]] = {}
        for name, space, record in self.attacks:
            if space == "pixels" and record.norm is not None and record.eps is not None:
                found.setdefault((record.norm, record.eps), []).append(name)
        return found

    @property
    def radii(self) -> dict[str, list[float]]:
        """The radii by norm, rising."""
        found: dict[str, list[float]] = {}
        for norm, eps in sorted(self.threats, key=lambda threat: threat[1]):
            found.setdefault(norm, []).append(eps)
        return found

    def columns(self, label: str, of: str = "") -> "Iterator[Filled]":
        """Columns of measures of this label, of one attack or of all images; of none is more known to be better."""
        for name in measured(self.entries):
            own, _, attack = name.partition(", ")
            if re.match(rf"{label}\b", own) and attack == of:
                yield TableColumn(own, of, None), _named(name)


Fill: TypeAlias = Callable[[Entry], Cell]
Filled: TypeAlias = tuple[TableColumn, Fill]
"""A column, and what gives a model's cell in it."""


def paper_table(entries: Sequence[Entry], shape: Shape = "auto", *, transfer: Sequence[Transfer] = ()) -> PaperTable:
    """Models by numbers, as a paper prints them, as far as the models' tables have them.

    shape  "deep-defense", "deep-defense-2": Deep Defense's tables 1 (accuracy, rho_2, accuracies at .2, .5 and 1 of
           eps_ref) and 2 (l_2 of DeepFool, rho_inf, mean L2 of Carlini and Wagner's attack, accuracy under PGD, PASS).
           "efficient-defenses": its tables 2 and 3 (accuracy under minimal attacks, empirical robustness, distance to
           the training set, loss sensitivity).
           "l2l-da": its table 2 (clean accuracy, one per bounded attack, Min), with the robust accuracy beside Min,
           which is never above it. "pgn": its table 2 (accuracies, or mean and median norms, black-box accuracies where
           there is a transfer of the attack, clean accuracy, seconds per epoch). "mma": its tables (clean accuracy,
           AvgAcc, AvgRobAcc, robust accuracy at each radius). "all": every measure. "auto" (default): the first of
           deep-defense, mma, pgn (attacks in L2) and l2l-da whose attacks and columns are all there; otherwise "all"

    Reference: the papers in the cards of `DeepDefense`, `GaussianAugmentation`, `L2LDA`, `PGN` and `MMA`.

    Raises:
        ValueError: no entries, or models that cannot be compared; a shape of which the tables have no number.
    """
    return shaped(comparable(entries), shape, transfer)


def measures_table(entries: Sequence[Entry]) -> PaperTable:
    """Every measure in a row, and the models in the columns."""
    return paper_table(entries, "all").transposed("Measure")


def shaped(entries: Sequence[Entry], shape: Shape, transfer: Sequence[Transfer] = ()) -> PaperTable:
    """`paper_table` of entries that are comparable."""
    available = Available(entries, _attacks(entries), transfer)
    if chosen := shape == "auto":
        shape = _fitting(available)
    columns = list(_all(entries) if shape == "all" else SHAPED[shape](available))
    cells = [[_cell(entry, fill) for _, fill in columns] for entry in entries]
    there = [place for place in range(len(columns)) if any(row[place] is not None for row in cells)]
    if chosen and shape != "all" and len(there) < len(columns):
        return shaped(entries, "all", transfer)
    if not there:
        raise ValueError(f"these models were not measured by what a table of {shape} holds; take another shape")
    labels = [label for place in there for column in (columns[place][0],) for label in (column.label, column.group)]
    if shape == "mma":
        labels.append("robust accuracy")
    return PaperTable(
        f"{entries[0].evaluation.images} images.",
        "Model",
        tuple(columns[place][0] for place in there),
        tuple(entry.name for entry in entries),
        tuple(tuple(row[place] for place in there) for row in cells),
        tuple(explained(labels)),
    )


def _cell(entry: Entry, fill: Fill) -> Cell:
    try:
        return fill(entry)
    except Unmeasured:
        return None


def _attacks(entries: Sequence[Entry]) -> list[UsedAttack]:
    """The attacks that were run on any of the models, in the order in which they first come up."""
    found: dict[tuple[str, str], UsedAttack] = {}
    for entry in entries:
        for space, table in entry.spaces.items():
            for name in table.attacks:
                found.setdefault((name, space), UsedAttack(name, space, table.record(name)))
    return list(found.values())


def _measure(
    measure: Callable[..., Measure], *values: Any, space: str = "pixels", of: Sequence[str] = (), **more: Any
) -> Fill:
    """A measure of a model's table; None where it has no table in this space, or one of the attacks was not run."""

    def fill(entry: Entry) -> Cell:
        table = entry.spaces.get(space)
        return measure(table, *values, **more) if table is not None and set(of) <= set(table.attacks) else None

    return fill


def _fitting(available: Available) -> Shape:
    """The shape that the attacks are known for."""
    attacks = available.attacks
    bounded = [each for each in attacks if each.record.bounded]
    from_prediction = any(each.record.reference == "prediction" for each in attacks)
    if from_prediction and any("eps_ref" in each.name for each in bounded):
        return "deep-defense"
    if any(map(along_radii, available.radii.values())):
        return "mma"
    from_label = {each.record.norm for each in attacks if each.record.reference == "label"}
    if from_label == {"L2"} and len(bounded) < len(attacks):
        return "pgn"
    return "l2l-da" if bounded else "all"


def _deep_defense(available: Available) -> Iterator[Filled]:
    own = [each for each in available.attacks if each.leaves("prediction", "L2")]
    space = own[0].space if own else "pixels"
    yield TableColumn("Acc."), _measure(clean_accuracy, space=space)
    for each in own:
        yield TableColumn("rho_2", each.name if len(own) > 1 else ""), each.by(rho_2)
    shares = [
        (re.search(r"([\d.]+) eps_ref\)?(.*)", each.name, re.DOTALL), each)
        for each in available.attacks
        if each.record.bounded
    ]
    for share, each in sorted(((s, each) for s, each in shares if s), key=lambda pair: float(pair[0][1])):
        yield TableColumn(f"{share[1]} eps_ref{share[2]}", "Acc. at"), each.by(accuracy)


def _deep_defense_2(available: Available) -> Iterator[Filled]:
    for each in available.attacks:
        if each.leaves("prediction", "L2"):
            yield TableColumn("l_2", each.name), each.by(l_2)
        elif each.leaves("prediction", "Linf"):
            yield TableColumn("rho_inf", each.name), each.by(rho_inf)
        elif each.record.core == "CarliniWagner" and each.leaves("label", "L2"):
            yield TableColumn("mean L2", each.name), each.by(mean_norm)
        elif each.record.core == "PGD":
            yield TableColumn("Acc.", each.name), each.by(accuracy)
        yield from available.columns("PASS", each.name)


def _efficient_defenses(available: Available) -> Iterator[Filled]:
    for each in available.attacks:
        if not each.record.bounded:
            yield TableColumn("Acc.", each.name), each.by(accuracy)
            yield TableColumn("robustness", each.name), each.by(empirical_robustness)
        yield from available.columns("TrainingSetDistance", each.name)
    yield from available.columns("LossSensitivity")


def _l2lda(available: Available) -> Iterator[Filled]:
    bounded = [each for each in available.attacks if each.record.bounded and each.space == "pixels"]
    yield TableColumn("Natural"), _measure(clean_accuracy)
    for each in bounded:
        yield TableColumn(each.name), each.by(accuracy)
    for (norm, eps), names in available.threats.items():
        if len(names) > 1:
            where = f"{norm} {eps:.4g}" if len(available.threats) > 1 else ""
            yield TableColumn("Min", where), _measure(minimum, names, of=names)
            yield TableColumn("Robust accuracy", where), _measure(robust_accuracy, NORMS[norm], eps, of=names)


def _pgn(available: Available) -> Iterator[Filled]:
    for each in available.attacks:
        if each.space != "pixels" or each.record.reference != "label":
            continue
        if each.record.bounded:
            yield TableColumn("Acc.", each.name), each.by(accuracy)
        else:
            yield TableColumn("mean", each.name), each.by(rho_cw)
            yield TableColumn("median", each.name), each.by(rho_cw, "median")
        for matrix in (matrix for matrix in available.transfer if matrix.attack == each.name):
            worst = dict(zip(matrix.targets, matrix.worst, strict=True))
            yield TableColumn("black box", each.name), lambda entry, worst=worst: worst.get(entry.name)
    yield TableColumn("Benign"), _measure(clean_accuracy)
    yield TableColumn("s/epoch", "", "lower"), _seconds


def _seconds(entry: Entry) -> Cell:
    """The mean over the epochs; without an interval, and of the machine that trained."""
    seconds = [float(line["seconds"]) for line in entry.log if line.get("epoch") and line.get("seconds")]
    return sum(seconds) / len(seconds) if seconds else None


def _mma(available: Available) -> Iterator[Filled]:
    yield TableColumn("Cln"), _measure(clean_accuracy)
    for name, chosen in available.radii.items():
        norm = NORMS[name]
        if len(chosen) > 1:
            yield TableColumn("AvgAcc", name), _measure(average_accuracy, norm, chosen)
            yield TableColumn("AvgRobAcc", name), _measure(average_accuracy, norm, chosen, clean=False)
        for eps in chosen:
            yield TableColumn(f"{eps:.4g}", name), _measure(robust_accuracy, norm, eps)


def _all(entries: Sequence[Entry]) -> Iterator[Filled]:
    for name in measured(entries):
        label, _, of = name.partition(", ")
        better = None if label.startswith(NEITHER) else "higher"
        yield TableColumn(of or label, label if of else "", better), _named(name)


def _named(name: str) -> Fill:
    return lambda entry: entry.measures.get(name)


SHAPED: dict[str, Callable[[Available], Iterator[Filled]]] = {
    "deep-defense": _deep_defense,
    "deep-defense-2": _deep_defense_2,
    "efficient-defenses": _efficient_defenses,
    "l2l-da": _l2lda,
    "pgn": _pgn,
    "mma": _mma,
}

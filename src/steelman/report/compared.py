"""The first of several models against each of the others, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass

from steelman.measures import Unmeasured
from steelman.measures.accuracies import threats
from steelman.measures.pairwise import Paired, paired
from steelman.norms import NORMS
from steelman.report.entry import Entry
from steelman.table.records import CLEAN


@dataclass(frozen=True)
class Duel:
    """Two models' names, and how they differ on the same images."""

    ours: str
    theirs: str
    paired: Paired

    def __str__(self) -> str:
        return self.paired.said(self.ours, self.theirs)


def compared(entries: Sequence[Entry]) -> tuple[Duel, ...]:
    """The first model against each other one, unattacked and within every norm and radius that both met."""
    found = []
    first = entries[0].evaluation if entries else None
    for other in entries[1:]:
        assert first is not None
        theirs = other.evaluation
        for under in (CLEAN, *(threat for threat in threats(first) if threat in threats(theirs))):
            try:
                pair = paired(first, theirs, under if isinstance(under, str) else (NORMS[under[0]], under[1]))
            except Unmeasured:
                continue
            found.append(Duel(entries[0].name, other.name, pair))
    return tuple(found)


def chosen(duels: Sequence[Duel], threat: str) -> list[Duel]:
    """Those that are worth a sentence: unattacked, and within one threat, such as the verdict's."""
    return [duel for duel in duels if duel.paired.under in ("no attack", threat)]

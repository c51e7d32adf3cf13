"""Crafted on one model, tested on another: every pair at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from steelman.evaluation.measures import Measure, accuracy, clean_accuracy, worst_case
from steelman.evaluation.table import Evaluation


@dataclass(frozen=True)
class Transfer:
    """What images that one attack made on `sources` (rows) do to `targets` (columns), image by image.

    attack   the attack's name
    sources  on which the images were crafted; an ensemble stands under a name of its own
    tables   per target, a table with the unattacked images and the attack `from_source(source)` of every source. Its
             forwards, gradients and seconds are what crafting cost on the source, the same for every target

    A natural error counts as an error, as everywhere. A target that is its own source is a white box.
    """

    attack: str
    sources: tuple[str, ...]
    tables: Mapping[str, Evaluation] = field(repr=False)

    def from_source(self, source: str) -> str:
        """The name under which images crafted on `source` stand in the tables."""
        return f"{self.attack} from {source}"

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.tables)

    @cached_property
    def clean(self) -> tuple[Measure, ...]:
        """Each target's accuracy on the unattacked images."""
        return tuple(map(clean_accuracy, self.tables.values()))

    @cached_property
    def accuracy(self) -> tuple[tuple[Measure, ...], ...]:
        """`accuracy[i][j]` is of target j on the images made on source i."""
        return tuple(
            tuple(accuracy(table, self.from_source(source)) for table in self.tables.values())
            for source in self.sources
        )

    @cached_property
    def worst(self) -> tuple[Measure | None, ...]:
        """Each target's worst case over the sources other than itself, image by image; None where there is no other."""
        others = {name: [self.from_source(each) for each in self.sources if each != name] for name in self.targets}
        return tuple(worst_case(table, others[name]) if others[name] else None for name, table in self.tables.items())

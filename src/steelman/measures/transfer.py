"""A transfer: what images that were made on some models do to others, read from the tables of the targets."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from steelman import identity
from steelman.files import decoding, parse_json, write_text
from steelman.measures.accuracies import accuracy, clean_accuracy, worst_case
from steelman.measures.measure import Measure
from steelman.table import older
from steelman.table.places import table_path
from steelman.table.records import Record
from steelman.table.table import Evaluation

INDEX = "transfer.json"
"""In a transfer's folder: the attack's name, and the folders of the targets' tables."""


@dataclass(frozen=True)
class Transfer:
    """What images that one attack made on `sources` (rows) do to `targets` (columns): a view on the targets' tables.

    attack  the attack's name
    tables  per target, a table with the unattacked images and the attack `from_source(source)` of every source. Its
            forwards and gradients are what crafting cost on the source, the same for every target

    A natural error counts as an error, as everywhere.
    """

    attack: str
    tables: Mapping[str, Evaluation] = field(repr=False)

    @cached_property
    def _records(self) -> dict[tuple[str, str], Record]:
        """By source and target."""
        return {
            (record.settings["source"], target): record
            for target, table in self.tables.items()
            for record in table.records
            if record.settings and record.settings.get("called") == self.attack
        }

    @property
    def sources(self) -> tuple[str, ...]:
        """On which the images were crafted; an ensemble stands under a name of its own."""
        return tuple(dict.fromkeys(source for source, _ in self._records))

    @property
    def white(self) -> frozenset[tuple[str, str]]:
        """The pairs of source and target that are one model, or of which the source is an ensemble with the target in
        it: white boxes, which no black-box summary counts."""
        return frozenset(pair for pair, record in self._records.items() if (record.settings or {})["knows"])

    def from_source(self, source: str) -> str:
        """The name under which images crafted on `source` stand in the tables."""
        return from_source(self.attack, source)

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
        """Each target's worst case over the black boxes, image by image; None where there is none."""
        black = {name: [self.from_source(each) for each in self.black(name)] for name in self.targets}
        return tuple(worst_case(table, black[name]) if black[name] else None for name, table in self.tables.items())

    def black(self, target: str) -> tuple[str, ...]:
        """The sources that do not know a target."""
        return tuple(source for source in self.sources if (source, target) not in self.white)

    def _repr_markdown_(self) -> str:
        """The matrix, for notebooks."""
        from steelman.measures.black_box import transfer_table

        return transfer_table(self).markdown()

    def save(self, folder: str | Path) -> None:
        """Write the targets' tables into folders of their own, and an index of them; each whole or not at all."""
        for target, table in self.tables.items():
            table.save(table_path(Path(folder) / _folder(target)))
        self._write_index(Path(folder))

    def _write_index(self, folder: Path) -> None:
        told = {"attack": self.attack, "tables": {target: _folder(target) for target in self.tables}}
        write_text(folder / INDEX, json.dumps(told, indent=1, ensure_ascii=False) + "\n")

    @staticmethod
    def load(path: str | Path) -> "Transfer":
        """Read what `save` or `transfer` wrote into a folder, or the one file of an older version.

        Raises:
            FileNotFoundError: there is nothing.
            ValueError: a file is not whole, or not of a transfer.
        """
        path = Path(path)
        if path.is_file():
            return Transfer(*older.transfer(path))
        if not (path / INDEX).is_file():
            raise FileNotFoundError(f"{path} has no {INDEX}: `transfer` and `save` write one")
        with decoding(path / INDEX, "what a transfer writes"):
            told = parse_json((path / INDEX).read_bytes())
            attack, places = str(told["attack"]), dict(told["tables"])
            there = {each.name for each in path.iterdir() if table_path(each).is_file()}
            if missing := [str(at) for at in places.values() if at not in there]:
                raise ValueError(f"the table of {missing[0]:.40} is not there")
        return Transfer(attack, {target: Evaluation.load(table_path(path / at)) for target, at in places.items()})


def _folder(target: str) -> str:
    plain = re.sub(r"[^\w.+-]+", "-", target)[:100]
    return plain if plain == target else f"{plain}-{identity.digest(target)[:8]}"


def from_source(attack: str, source: str) -> str:
    """The name under which images that an attack made on a source stand in the tables."""
    return f"{attack} from {source}"

"""A transfer: what images that were crafted on some models do to others, read from the tables of the targets."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from steelman import identity
from steelman.files import decoding, parse_json, write_text
from steelman.measures.accuracies import accuracy, clean_accuracy, minimum, worst_case
from steelman.measures.all_measures import explained
from steelman.measures.measure import Measure
from steelman.measures.paper_table import Cell, PaperTable, TableColumn
from steelman.table import older
from steelman.table.places import table_path
from steelman.table.records import Record
from steelman.table.table import Evaluation

INDEX = "transfer.json"
"""In a transfer's folder: the attack's name, and the folders of the targets' tables."""


@dataclass(frozen=True)
class Transfer:
    """What images that one attack crafted on `sources` (rows) do to `targets` (columns): a view on the targets' tables.

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
        """The models on which the images were crafted; an ensemble has a name of its own."""
        return tuple(dict.fromkeys(source for source, _ in self._records))

    @property
    def white(self) -> frozenset[tuple[str, str]]:
        """White boxes: pairs of source and target that are one model, or where the source is an ensemble with the
        target in it. No black-box summary counts them."""
        settings = {pair: record.settings or {} for pair, record in self._records.items()}
        # Tables of an older version call it "knows".
        return frozenset(pair for pair, each in settings.items() if each.get("white_box", each.get("knows")))

    def from_source(self, source: str) -> str:
        """The name in the tables of the images that were crafted on `source`."""
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
        """`accuracy[i][j]` is of target j on the images crafted on source i."""
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
        """The sources that do not contain a target."""
        return tuple(source for source in self.sources if (source, target) not in self.white)

    def _repr_markdown_(self) -> str:
        """The matrix, for notebooks."""
        return transfer_table(self).markdown()

    def save(self, folder: str | Path) -> None:
        """Write the targets' tables into folders of their own, and an index of them; each whole or not at all."""
        for target, table in self.tables.items():
            table.save(table_path(Path(folder) / _folder(target)))
        self._write_index(Path(folder))

    def _write_index(self, folder: Path) -> None:
        index = {"attack": self.attack, "tables": {target: _folder(target) for target in self.tables}}
        write_text(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")

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
            index = parse_json((path / INDEX).read_bytes())
            attack, places = str(index["attack"]), dict(index["tables"])
            there = {each.name for each in path.iterdir() if table_path(each).is_file()}
            if missing := [str(at) for at in places.values() if at not in there]:
                raise ValueError(f"the table of {missing[0]:.40} is not there")
        return Transfer(attack, {target: Evaluation.load(table_path(path / at)) for target, at in places.items()})


def _folder(target: str) -> str:
    plain = re.sub(r"[^\w.+-]+", "-", target)[:100]
    return plain if plain == target else f"{plain}-{identity.digest(target)[:8]}"


def from_source(attack: str, source: str) -> str:
    """The name in the tables of the images that an attack crafted on a source."""
    return f"{attack} from {source}"


UNATTACKED, WORST = "unattacked", "worst of the black boxes"


def transfer_table(transfer: Transfer) -> PaperTable:
    """Accuracies of the models in the columns on images crafted on the models in the rows.

    The last rows are the unattacked images, and the worst case by image over the sources without the target.

    Reference: the shape is that of Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses
    against adversarial attacks", AISec 2017, table 1.
    """
    rows: list[tuple[str, Sequence[Cell]]] = [*zip(transfer.sources, transfer.accuracy, strict=True)]
    rows.append((UNATTACKED, transfer.clean))
    if any(transfer.worst):
        rows.append((WORST, transfer.worst))
    white = [f"{source} on {target}" for source, target in sorted(transfer.white)]
    return PaperTable(
        f"{transfer.attack}, crafted on the rows, tested on the columns."
        + (f" White boxes: {', '.join(white)}." if white else ""),
        "Crafted on",
        tuple(TableColumn(name, better=None) for name in transfer.targets),
        tuple(name for name, _ in rows),
        tuple(tuple(cells) for _, cells in rows),
    )


def black_box_table(transfers: Sequence[Transfer], sources: Sequence[str] | None = None) -> PaperTable:
    """Models in the rows, and their accuracies under attacks that were crafted on others.

    transfers  one for each attack, of the same targets
    sources    some of the surrogates; default: all. A surrogate that contains the target has an empty cell

    Of one surrogate, a column per attack; of several, a group of columns per attack. Where all attacks have one norm
    and radius, Min is the lowest of a row, and the worst case counts image by image.

    Reference: the shapes are those of Zantedeschi, Nicolae and Rawat's tables 4 and 5 (see `transfer_table`), and of
    L2L-DA's table 3 (see the card of `L2LDA`).

    Raises:
        ValueError: no transfers, or they are of different targets; there is no such source.
    """
    if not transfers:
        raise ValueError("a black-box table needs at least one transfer")
    chosen = list(dict.fromkeys(name for each in transfers for name in each.sources)) if sources is None else sources
    for each in transfers:
        if each.targets != transfers[0].targets:
            raise ValueError(
                f"{each.attack} was tested on {', '.join(each.targets)} and {transfers[0].attack} on "
                f"{', '.join(transfers[0].targets)}; give transfers of the same targets"
            )
        for name in chosen:
            if name not in each.sources:
                raise ValueError(f"{each.attack} was not crafted on {name}; its sources are {', '.join(each.sources)}")
    pairs = [(each, source) for each in transfers for source in chosen]
    columns = [
        TableColumn(each.attack) if len(chosen) == 1 else TableColumn(source, each.attack) for each, source in pairs
    ]
    rows: list[tuple[Cell, ...]] = []
    summed = _one_threat(transfers) and len(pairs) > 1
    for place, target in enumerate(transfers[0].targets):
        cells: list[Cell] = [
            each.accuracy[each.sources.index(source)][place] if source in each.black(target) else None
            for each, source in pairs
        ]
        if summed:
            names = [each.from_source(source) for each, source in pairs if source in each.black(target)]
            first, *others = (each.tables[target] for each in transfers)
            whole = sum(others, first)
            cells += [minimum(whole, names), worst_case(whole, names)] if names else [None, None]
        rows.append(tuple(cells))
    if summed:
        columns += [TableColumn("Min"), TableColumn("Worst case")]
    caption = f"Crafted on {chosen[0]}, tested on the rows." if len(chosen) == 1 else "Black box, tested on the rows."
    notes = tuple(explained(column.label for column in columns))
    return PaperTable(caption, "Model", tuple(columns), transfers[0].targets, tuple(rows), notes)


def _one_threat(transfers: Sequence[Transfer]) -> bool:
    found = set()
    for each in transfers:
        record = next(iter(each.tables.values())).record(each.from_source(each.sources[0]))
        found.add((record.norm, record.eps))
    return len(found) == 1 and all(norm is not None and eps is not None for norm, eps in found)

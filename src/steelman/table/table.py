"""The table of attacked images, one row per image and attack, which every measure, curve and report reads."""

import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from steelman.extras import require
from steelman.files import UNSEALED, decoding, is_whole, parse_json, refuse_bomb, replacing, sealed
from steelman.table.records import CLEAN, Provenance, Record
from steelman.table.schema import VERSION, check_records, completed, misclassified

if TYPE_CHECKING:
    import pyarrow

SEAL = rb'"file": "([0-9a-f]{64})"'
"""A file's own hash, in the JSON of its metadata; in a text within that, quotes have backslashes."""
ABOUT = b"steelman"
"""The key of that JSON in the Parquet file's metadata."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """A table of attacked images, one row per image and attack; unattacked images are rows of attack "clean".

    The columns are declared, with their meanings, in `steelman.table.schema.COLUMNS`; sizes are in the units of the
    space. Those named in `probes` are of probes, NaN where nothing was measured; others are kept as they are.

    A table is of one model and one space: "pixels", or "preprocessed" for distances behind the model's preprocessing.
    An attack that was run only on the images that were still correct (`evaluate(survivors_only=True)`) has rows of
    these alone; one for which no image remained is a record without rows.

    `evaluation["l2"]` is a column as a numpy array; `+` joins tables of the same data; `save` and `load` are Parquet.
    """

    table: "pyarrow.Table"

    in_notebooks: ClassVar[Callable[["Evaluation"], str]] = staticmethod(lambda table: f"<p>{escape(repr(table))}</p>")
    """What a notebook shows; `steelman.measures`, which is below, puts its numbers and intervals in this place."""

    @staticmethod
    def of(
        table: "pyarrow.Table",
        records: Iterable[Record],
        *,
        space: str = "pixels",
        probes: Sequence[str] = (),
        **about: Any,
    ) -> "Evaluation":
        """Rows with their records, and other metadata: `model` (digests by part), `data`."""
        about |= {"format": VERSION, "file": "", "space": space, "probes": list(probes)}
        about["records"] = [record.plain() for record in {each.id: each for each in records}.values()]
        return Evaluation(_with_metadata(table, about))

    def replaced(self, table: "pyarrow.Table | None" = None, **about: Any) -> "Evaluation":
        """The same with other rows or other metadata."""
        kept = {key: value for key, value in self.about.items() if key not in ("format", "records")}
        known: dict[str, Any] = {"records": self.records} | kept | about
        return Evaluation.of(self.table if table is None else table, **known)

    @staticmethod
    def joined(parts: "Sequence[Evaluation]") -> "Evaluation":
        """The rows of all tables, with the metadata of the first."""
        import pyarrow
        from pyarrow import compute

        tables = [part.table.replace_schema_metadata() for part in parts]
        table = pyarrow.concat_tables(tables, promote_options="default")
        probes = list(dict.fromkeys(name for part in parts for name in part.probes))
        for name in probes:
            filled = compute.fill_null(table[name], float("nan"))
            table = table.set_column(table.column_names.index(name), name, filled)
        return parts[0].replaced(table, probes=probes, records=[each for part in parts for each in part.records])

    @cached_property
    def about(self) -> dict[str, Any]:
        """The table's metadata."""
        text = (self.table.schema.metadata or {}).get(ABOUT)
        return {"records": [], "probes": [], "space": "pixels"} if text is None else parse_json(text)

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """Every attack as it was run, and the unattacked images, in the order of their first rows."""
        return tuple(map(Record.of, self.about["records"]))

    def record(self, attack: str) -> Record:
        """An attack's record; where it was run in parts, the first, from which the others differ in place and day.

        Raises:
            ValueError: the table has no such attack.
        """
        if (found := next((each for each in self.records if each.name == attack), None)) is None:
            raise ValueError(f"no attack {attack!r} in the table; it has {', '.join((CLEAN, *self.attacks))}")
        return found

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks' names in the order in which they were run, without "clean", and with those without rows."""
        return tuple(dict.fromkeys(record.name for record in self.records if record.name != CLEAN))

    @property
    def without_rows(self) -> tuple[str, ...]:
        """The attacks for which no image remained."""
        there = set(self.table["attack"].unique().to_pylist())
        return tuple(name for name in self.attacks if name not in there)

    @property
    def made(self) -> dict[Provenance, list[str]]:
        """Where the table was made, with the attacks; several places, versions or days where it was made in parts."""
        found: dict[Provenance, list[str]] = {}
        for record in self.records:
            found.setdefault(record.made, []).append(record.name)
        return found

    @property
    def space(self) -> str:
        return self.about["space"]

    @property
    def draws(self) -> int:
        """By how many answers of a random model an image is judged; 1 of another."""
        return int(self.about.get("draws", 1))

    @property
    def probes(self) -> tuple[str, ...]:
        """The columns of probes."""
        return tuple(name for name in self.about["probes"] if name in self.table.column_names)

    @staticmethod
    def load(path: str | Path) -> "Evaluation":
        """Read a table that this version or an older one wrote; of two spaces in one file, the pixels.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a whole Parquet table with these columns, or has changed since it was written.
        """
        found = read_spaces(path)
        return found.get("pixels") or next(iter(found.values()))

    def save(self, path: str | Path) -> None:
        """Write Parquet with checksums of its pages and of the whole file; whole or not at all."""
        from pyarrow import parquet

        metadata = _with_metadata(self.table, self.about | {"file": UNSEALED}).schema.metadata
        table = self.table.replace_schema_metadata()
        options: dict[str, Any] = {"store_schema": False, "write_statistics": False, "write_page_checksum": True}
        with replacing(Path(path)) as partial:
            with parquet.ParquetWriter(partial, table.schema, **options) as writer:
                writer.write_table(table)
                writer.add_key_value_metadata(metadata)
            partial.write_bytes(sealed(partial.read_bytes()))

    def __add__(self, other: "Evaluation") -> "Evaluation":
        """Both tables' rows; unattacked images of both, with the same prediction, are taken once.

        Raises:
            ValueError: both have the same image under the same attack, or the two are of different models, spaces or
                images, or have two attacks of one name.
        """
        import pyarrow

        self.refuse_other_model(other.about.get("model", {}))
        if self.space != other.space:
            raise ValueError(f"one table is in {self.space} and the other in {other.space}; a table has one space")
        self.refuse_other_attacks(other.records)
        shared = self.cells().keys() & other.cells().keys()
        self.refuse_other_images(other)
        if twice := sorted(cell for cell in shared if cell[1] != CLEAN):
            raise ValueError(
                f"both tables have image {twice[0][0]} under {twice[0][1]}; join tables of different attacks or "
                "images, or give the attacks other names"
            )
        new = other.table.filter(pyarrow.array([cell not in shared for cell in other.cells()]))
        return Evaluation.joined([self, other.replaced(new)])

    def refuse_other_model(self, parts: Mapping[str, str]) -> None:
        """Raises ValueError where a model, known by the digests of its parts, is not the table's."""
        ours = self.about.get("model") or {}
        if other := [part for part in ours if part in parts and ours[part] != parts[part]]:
            raise ValueError(
                f"the table is of another model, with other {' and '.join(other)}. Begin a new one (--fresh, or "
                "another --folder)"
            )

    def refuse_other_attacks(self, records: Iterable[Record]) -> None:
        """Raises ValueError where another attack has the name of one in the table."""
        ours = {record.name: record for record in self.records if record.name != CLEAN}
        for record in records:
            if record.name in ours and (difference := ours[record.name].differs(record)):
                raise ValueError(
                    f"the table has another attack called {record.name}: {difference}. Give it another name, or begin "
                    "a new table (--fresh)"
                )

    def refuse_other_images(self, other: "Evaluation") -> None:
        """Raises ValueError where an image has other pixels, another label or another unattacked prediction."""
        ours, theirs = self.cells(), other.cells()
        for cell in sorted(ours.keys() & theirs.keys()):
            (*known, pixels), (*now, others) = ours[cell], theirs[cell]
            if pixels and others and pixels != others:
                raise ValueError(f"not the same images: image {cell[0]} has other pixels or another label in the table")
            if known != now:
                raise ValueError(
                    f"not the same data and model: image {cell[0]} has label and clean prediction {tuple(known)} in "
                    f"the table, and now {tuple(now)}"
                )

    def cells(self) -> dict[tuple[int, str], tuple[int, int, int]]:
        """Label, unattacked prediction and pixels' hash of every row, by image and attack."""
        names = ("image", "attack", "label", "clean_prediction", "pixels")
        rows = zip(*(self.table[name].to_pylist() for name in names), strict=True)
        return {(image, attack): (label, clean, pixels) for image, attack, label, clean, pixels in rows}

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, column: str) -> np.ndarray:
        if column not in self.table.column_names:
            raise KeyError(f"no column {column!r}; there are {', '.join(self.table.column_names)}")
        return self.table[column].to_numpy()

    @property
    def images(self) -> int:
        """How many images were evaluated."""
        return len(self.table["image"].unique())

    def whole(self, attack: str) -> bool:
        """Whether the attack was run on every image."""
        return len(self.only(attack)) == self.images

    def recorded(self, change: Callable[[Record], Record]) -> "Evaluation":
        """The table with changed records, and the attacks by the names in these."""
        import pyarrow

        new = {record.id: change(record) for record in self.records}
        table, of_row = self.table, [new[each] for each in self.table["record"].to_pylist()]
        for column in ("attack", "record"):
            values = [record.name if column == "attack" else record.id for record in of_row]
            table = table.set_column(table.column_names.index(column), column, pyarrow.array(values, pyarrow.string()))
        return self.replaced(table, records=new.values())

    def renamed(self, names: Mapping[str, str]) -> "Evaluation":
        """The table with other names for some attacks."""
        return self.recorded(lambda record: record.changed(name=names.get(record.name, record.name)))

    def only(self, attack: str | Sequence[str]) -> "Evaluation":
        """The rows and records of some attacks.

        Raises:
            ValueError: the table has no such attack; the message lists those it has.
        """
        import pyarrow
        from pyarrow import compute

        names = [attack] if isinstance(attack, str) else list(attack)
        for name in names:
            if name != CLEAN:
                self.record(name)
        kept = self.table.filter(compute.field("attack").isin(pyarrow.array(names, pyarrow.string())))
        return self.replaced(kept, records=[record for record in self.records if record.name in names])

    def of_images(self, images: Sequence[int]) -> "Evaluation":
        """The rows of some images."""
        import pyarrow
        from pyarrow import compute

        return self.replaced(self.table.filter(compute.field("image").isin(pyarrow.array(images, pyarrow.int64()))))

    def to_pandas(self) -> Any:
        """A pandas DataFrame. Raises ImportError where pandas is not installed."""
        require("to_pandas", "pandas", extra="pandas")
        return self.table.to_pandas()

    def to_polars(self) -> Any:
        """A polars DataFrame. Raises ImportError where polars is not installed."""
        require("to_polars", "polars", extra="polars")
        return import_module("polars").from_arrow(self.table)

    def _lines(self) -> list[tuple[str, float]]:
        """Attack and accuracy of all that were run on every image."""
        found = []
        for name in (CLEAN, *self.attacks):
            rows = self.only(name)
            if len(rows) == self.images:
                label = rows["label"]
                right = (rows["clean_prediction"] == label) & ~misclassified(rows["prediction"], label)
                found.append((name, float(right.mean())))
        return found

    def __repr__(self) -> str:
        cells = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self._lines())
        return f"Evaluation({self.images} images, {self.space}, accuracy: {cells})"

    def _repr_html_(self) -> str:
        return type(self).in_notebooks(self)


def _with_metadata(table: "pyarrow.Table", about: Mapping[str, Any]) -> "pyarrow.Table":
    return table.replace_schema_metadata((table.schema.metadata or {}) | {ABOUT: json.dumps(about).encode()})


def read_spaces(path: str | Path) -> dict[str, Evaluation]:
    """The tables in a file, by space; only older versions wrote two into one file. See `Evaluation.load`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no evaluation table at {path}; `evaluate` and `save` make one")
    with decoding(path, "a whole evaluation table"):
        found, lacking = _read(path.read_bytes())
    if lacking:
        warnings.warn(
            f"{path} was written by a version that had no {', '.join(lacking)}: what needs that is not measured",
            stacklevel=3,
        )
    return found


def _read(raw: bytes) -> tuple[dict[str, Evaluation], list[str]]:
    """The tables by space, and the columns that the file lacks."""
    import pyarrow
    from pyarrow import parquet

    from steelman.table import older

    if (seal := re.search(SEAL, raw)) and not is_whole(raw, seal[1].decode()):
        raise ValueError("it has changed since it was written")  # before anything reads what is damaged
    file = parquet.ParquetFile(pyarrow.BufferReader(raw), page_checksum_verification=True)
    refuse_bomb(8 * file.metadata.num_rows * file.metadata.num_columns, len(raw))
    table = file.read()
    about = Evaluation(table).about
    if "format" not in about and "parameters" in table.column_names:
        return older.tables(table)
    if about.pop("file") and not seal:  # empty in a table that another program has written
        raise ValueError("its hash is not where it was written")
    table, lacking = completed(table)
    records = [Record.of(each) for each in about.pop("records")]
    found = Evaluation.of(table, records, **about)
    check_records(table, records)
    return {found.space: found}, lacking

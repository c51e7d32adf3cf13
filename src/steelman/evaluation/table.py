"""One row per image and attack: what evaluation writes, and all that every measure, curve and report reads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow

CLEAN = "clean"
"""The name under which the unattacked images stand in the table."""

COLUMNS = {
    "image": "int64",
    "attack": "string",
    "space": "string",
    "parameters": "string",
    "away_from": "string",
    "norm": "string",
    "eps": "float64",
    "label": "int64",
    "clean_prediction": "int64",
    "prediction": "int64",
    "success": "bool",
    "l0": "float64",
    "l1": "float64",
    "l2": "float64",
    "linf": "float64",
    "x_l2": "float64",
    "x_linf": "float64",
    "loss": "float64",
    "forwards": "int64",
    "gradients": "int64",
    "seconds": "float64",
}

ABOUT = b"steelman"
"""Where the table's Parquet file says what it is of."""

UNMET = "unmet"
"""Under what it says which attacks had no image left to meet."""

ROUNDING = 1 + 1e-5
"""Distances are differences of float32 images: one of exactly eps may read so much longer, 1/255 say."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """A table of attacked images, one row per image, attack and space; unattacked images are rows of attack "clean".

    image             the image's place in its data set
    attack, space     the attack's name; "pixels", or "preprocessed" for distances behind the model's preprocessing
    parameters        the attack with all of its fields, as it was run
    away_from         what the attack had to leave: the "label", or the model's own "prediction"
    norm, eps         the attack's norm and radius; eps is NaN for minimal attacks, which have none
    label, clean_prediction, prediction   classes: the true one, the model's before, the model's after
    success           the attack reached its goal
    l0 l1 l2 linf     size of the perturbation, in the units of the space
    x_l2 x_linf       size of the unattacked image, in the same units
    loss              cross-entropy on the returned image with the class that the attack had to leave
    forwards, gradients, seconds   passes that the image cost, and its share of its batch's time

    Any other column is of a probe, whose call is its name: NaN where it was not measured. An attack that was to meet
    only what still stood (`evaluate(columns=False)`) has no rows for the other images.

    `evaluation["l2"]` is a column as a numpy array; `+` joins tables of the same data; `save` and `load` are Parquet.
    """

    table: "pyarrow.Table"

    def __post_init__(self) -> None:
        missing = [name for name in COLUMNS if name not in self.table.column_names]
        if missing:
            raise ValueError(f"not an evaluation table: the column {missing[0]} is missing")

    @staticmethod
    def from_columns(columns: dict[str, Any]) -> "Evaluation":
        """From one sequence per column of the table; further ones are of probes."""
        import pyarrow

        kinds = COLUMNS | {name: "float64" for name in columns if name not in COLUMNS}
        schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in kinds.items()])
        return Evaluation(pyarrow.table(columns, schema=schema))

    @staticmethod
    def joined(tables: "Sequence[pyarrow.Table]") -> "Evaluation":
        """Tables one under the other, NaN where one has no column of a probe; what they are of is the first's."""
        import pyarrow
        from pyarrow import compute

        table = pyarrow.concat_tables(tables, promote_options="default")
        for name in table.column_names:
            if name not in COLUMNS and table[name].null_count:
                place = table.column_names.index(name)
                table = table.set_column(place, name, compute.fill_null(table[name], float("nan")))
        return Evaluation(table.replace_schema_metadata(tables[0].schema.metadata))

    @property
    def about(self) -> dict[str, str]:
        """What the table is of and how it was made, as `evaluate` wrote it down; empty where nobody did."""
        said = (self.table.schema.metadata or {}).get(ABOUT)
        return {} if said is None else json.loads(said)

    def with_about(self, about: Mapping[str, str]) -> "Evaluation":
        """The table, which from now on says this of itself."""
        others = {key: value for key, value in (self.table.schema.metadata or {}).items() if key != ABOUT}
        return Evaluation(self.table.replace_schema_metadata(others | {ABOUT: json.dumps(dict(about)).encode()}))

    @staticmethod
    def load(path: str | Path) -> "Evaluation":
        """Read a table that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a whole Parquet table with these columns.
        """
        import pyarrow
        from pyarrow import parquet

        if not Path(path).is_file():
            raise FileNotFoundError(f"no evaluation table at {path}; `evaluate` and `save` make one")
        try:
            return Evaluation(parquet.read_table(path))
        except (pyarrow.ArrowInvalid, OSError, ValueError) as error:
            raise ValueError(f"{path} is not a whole evaluation table: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write Parquet, whole or not at all."""
        from pyarrow import parquet

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        parquet.write_table(self.table, partial)
        partial.replace(path)

    def __add__(self, other: "Evaluation") -> "Evaluation":
        """Both tables' rows; unattacked images that stand in both, with the same prediction, are taken once.

        Raises:
            ValueError: an image met the same attack in both, or the two disagree about an image's label or its
                prediction before the attack, so that they are not of the same data and model.
        """
        import pyarrow

        models = {table.about.get("model") for table in (self, other)} - {None, ""}
        if len(models) > 1:
            raise ValueError(
                f"not the same data and model: the tables are of models {' and '.join(sorted(map(str, models)))}"
            )
        ours, theirs = self.cells(), other.cells()
        shared = {cell for cell in theirs if cell in ours}
        for image, attack, space in sorted(shared):
            if ours[image, attack, space] != theirs[image, attack, space]:
                raise ValueError(
                    f"not the same data and model: the label and clean prediction of image {image} "
                    f"are {ours[image, attack, space]} in one, {theirs[image, attack, space]} in the other"
                )
            if attack != CLEAN:
                raise ValueError(
                    f"both tables have image {image} under {attack} in {space}; join tables of different attacks, "
                    "images or spaces, or give the attacks other names"
                )
        new = pyarrow.array([cell not in shared for cell in theirs])
        joined = Evaluation.joined([self.table, other.table.filter(new)])
        return joined.with_about(joined.about | said_of_unmet(self.unmet | other.unmet)) if other.unmet else joined

    def cells(self) -> dict[tuple[int, str, str], tuple[int, int]]:
        """The label and unattacked prediction of every row, under what makes the row unique."""
        keys = zip(*(self.table[name].to_pylist() for name in ("image", "attack", "space")), strict=True)
        values = zip(*(self.table[name].to_pylist() for name in ("label", "clean_prediction")), strict=True)
        return dict(zip(keys, values, strict=True))

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, column: str) -> np.ndarray:
        if column not in self.table.column_names:
            raise KeyError(f"no column {column!r}; there are {', '.join(self.table.column_names)}")
        return self.table[column].to_numpy()

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks' names in the order they were run, without "clean"."""
        return tuple(name for name in self.table["attack"].unique().to_pylist() if name != CLEAN)

    @property
    def probes(self) -> tuple[str, ...]:
        """The columns of probes."""
        return tuple(name for name in self.table.column_names if name not in COLUMNS)

    @property
    def unmet(self) -> dict[tuple[str, str], tuple[str, float]]:
        """Norm and radius, by attack and space, of the bounded attacks that found no image left to meet: no rows."""
        said = {(name, space): (norm, eps) for name, space, norm, eps in json.loads(self.about.get(UNMET, "[]"))}
        there = self.parameters if said else {}
        return {cell: threat for cell, threat in said.items() if cell not in there}

    def whole(self, attack: str) -> bool:
        """Whether the attack met every image."""
        return len(self.only(attack)) == self.images * len(self.only(attack).spaces)

    @property
    def spaces(self) -> tuple[str, ...]:
        return tuple(self.table["space"].unique().to_pylist())

    @property
    def parameters(self) -> dict[tuple[str, str], str]:
        """What each attack was in each space, with all of its fields."""
        kinds = self.table.group_by(["attack", "space", "parameters", "away_from"]).aggregate([]).to_pylist()
        return {
            (kind["attack"], kind["space"]): kind["parameters"]
            if kind["away_from"] == "label"
            else f"FromPrediction({kind['parameters']})"
            for kind in kinds
            if kind["attack"] != CLEAN
        }

    def renamed(self, names: Mapping[tuple[str, str], str]) -> "Evaluation":
        """The table with other names for some attacks, each given by its attack and space."""
        import pyarrow

        cells = zip(self.table["attack"].to_pylist(), self.table["space"].to_pylist(), strict=True)
        column = pyarrow.array([names.get(cell, cell[0]) for cell in cells], pyarrow.string())
        return Evaluation(self.table.set_column(self.table.column_names.index("attack"), "attack", column))

    @property
    def images(self) -> int:
        """How many images were evaluated."""
        return len(self.table["image"].unique())

    def only(self, attack: str | Sequence[str] | None = None, space: str | None = None) -> "Evaluation":
        """The rows of some attacks, or of one space, in order of their images.

        Raises:
            ValueError: the table has no such attack or space; the message lists those it has.
        """
        import pyarrow
        from pyarrow import compute

        kept = self.table
        if space is not None:
            if space not in self.spaces:
                raise ValueError(f"no rows in space {space!r}; the table has {', '.join(self.spaces)}")
            kept = kept.filter(compute.field("space") == space)
        if attack is not None:
            names = [attack] if isinstance(attack, str) else list(attack)
            for name in names:
                if name != CLEAN and name not in self.attacks:
                    raise ValueError(f"no rows of attack {name!r}; the table has {', '.join((CLEAN, *self.attacks))}")
            kept = kept.filter(compute.field("attack").isin(pyarrow.array(names, pyarrow.string())))
            about = {key: said for key, said in self.about.items() if key != UNMET}
            return Evaluation(kept) if about == self.about else Evaluation(kept).with_about(about)
        return Evaluation(kept)

    def of_space(self, space: str) -> "Evaluation":
        """The rows of one space, none where it was not attacked in."""
        from pyarrow import compute

        return Evaluation(self.table.filter(compute.field("space") == space))

    def of_images(self, images: Sequence[int]) -> "Evaluation":
        """The rows of some images."""
        import pyarrow
        from pyarrow import compute

        return Evaluation(self.table.filter(compute.field("image").isin(pyarrow.array(images, pyarrow.int64()))))

    def to_pandas(self) -> Any:
        """A pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports]  # noqa: F401
        except ImportError as error:
            raise ImportError("pandas is not installed: pip install steelman[pandas]") from error
        return self.table.to_pandas()

    def to_polars(self) -> Any:
        """A polars DataFrame.

        Raises:
            ImportError: polars is not installed.
        """
        try:
            import polars  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError("polars is not installed: pip install steelman[polars]") from error
        return polars.from_arrow(self.table)

    def _lines(self) -> list[tuple[str, str, float]]:
        """Space, attack and accuracy of all that met every image, for a short look."""
        lines = []
        for space in self.spaces:
            for name in (CLEAN, *self.attacks):
                part = self.table.filter((self["space"] == space) & (self["attack"] == name))
                if part.num_rows == self.of_space(space).images:
                    rows = Evaluation(part)
                    right = (rows["clean_prediction"] == rows["label"]) & (rows["prediction"] == rows["label"])
                    lines.append((space, name, float(right.mean())))
        return lines

    def __repr__(self) -> str:
        cells = ", ".join(
            f"{name} {100 * share:.1f} %" + ("" if space == "pixels" else f" ({space})")
            for space, name, share in self._lines()
        )
        return f"Evaluation({self.images} images, accuracy: {cells})"

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(space)}</td><td>{100 * share:.1f} %</td></tr>"
            for space, name, share in self._lines()
        )
        head = "<tr><th>attack</th><th>space</th><th>accuracy</th></tr>"
        return f"<table><caption>{self.images} images</caption>{head}{rows}</table>"


def said_of_unmet(unmet: Mapping[tuple[str, str], tuple[str, float]]) -> dict[str, str]:
    """`Evaluation.unmet` as a part of what a table says of itself."""
    return {UNMET: json.dumps([[*cell, *threat] for cell, threat in unmet.items()])} if unmet else {}

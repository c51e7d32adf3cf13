"""A paper as data: its printed tables and figures, and which recipe, evaluation and measure makes each number."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from steelman import config
from steelman.files import parse_toml
from steelman.naming import nearest

DATA = Path(__file__).parent / "data"
"""One file PAPER.toml for each paper; docs/adding-a-paper.md says what it holds."""

Scale: TypeAlias = Literal["paper", "night", "hour"]
SCALES: tuple[Scale, ...] = ("paper", "night", "hour")
"""From the paper's own budget down."""

Printed: TypeAlias = float | str | None

OF_TRAINING = ("seconds an epoch", "training seconds")
"""Measures of a training and not of an evaluation."""

FRACTION = "fraction"
"""The unit of accuracies that a paper prints as fractions; here all are in percent."""

PRINTED_OF_ROW = ("std", "dataset", "network", "attack", "source_network", "steps", "restarts", "norm", "eps", "mark")
SHOWN_OF_ROW = ("dataset", "network", "attack", "source_network", "steps", "restarts", "norm", "eps")
OWN_OF_ROW = ("recipe", "set", "evaluation", "measures", "missing", "note")
PRINTED = ("caption", "note")
OF_TABLE = ("columns", "unit", "units", "settings", "rows")
OWN_OF_TABLE = (
    *("evaluation", "measures", "column_evaluations", "column_recipes", "why", "extra", "extra_columns", "missing"),
)
OF_FIGURE = ("panels", "x", "y", "curves", "settings", "shows", "readings")
CHARTS = ("epochs", "radii", "points")
"""The kinds of figures that have axes; panels of one figure may be of several."""
OWN_OF_FIGURE = ("kind", "draw", "by", "why", "missing")


@dataclass(frozen=True)
class Network:
    """A trained network: a recipe, with changes such as "defence.c=5"."""

    recipe: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A number of a table: what the paper prints, and what makes ours; no network where nothing does."""

    printed: Printed
    network: Network | None
    evaluation: str
    measure: str
    missing: str


@dataclass(frozen=True)
class Row:
    """A row: its name, what it belongs to, its cells; `ours` where the paper has no such row."""

    name: str
    facts: Mapping[str, Any]
    cells: tuple[Cell, ...]
    note: str
    ours: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the paper. `columns` are headings, `units` one for each."""

    name: str
    caption: str
    note: str
    why: str
    columns: tuple[str, ...]
    units: tuple[str, ...]
    rows: tuple[Row, ...]
    own_columns: int

    @property
    def cells(self) -> Iterator[Cell]:
        return (cell for row in self.rows for cell in row.cells)

    @property
    def wired(self) -> bool:
        return any(cell.network is not None for cell in self.cells)


@dataclass(frozen=True)
class Panel:
    """One part of a figure. `curves` has the networks of each line; more than one are points of it.

    kind  what draws it, of the figure where it has none of its own
    x, y, evaluation, attack, images, success  as the paper's file has them: see docs/adding-a-paper.md
    """

    title: str
    curves: Mapping[str, tuple[Network, ...]]
    kind: str
    x: str = ""
    y: str = ""
    evaluation: str = ""
    attack: str = ""
    images: tuple[int, ...] = ()
    success: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure of the paper; of `kind` "" where nothing draws it."""

    name: str
    caption: str
    shows: str
    note: str
    why: str
    missing: str
    kind: str
    by: str
    panels: tuple[Panel, ...]

    @property
    def wired(self) -> bool:
        return bool(self.kind)


@dataclass(frozen=True)
class Learned:
    """A recipe of attack training, whose generator is trained against the attacked network and then attacks it.

    begin   a recipe from whose generator training goes on; default a new one
    attack  settings of the adversary as an attack, such as L2L-DA's `samples`
    """

    recipe: str
    begin: str = ""
    attack: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What is measured of a network. `settings` are those of a battery; the others are explained in the docs' page."""

    name: str
    settings: Mapping[str, Any]
    space: Literal["pixels", "preprocessed"] = "pixels"
    seed: int = 0
    batch_size: int = 250
    images: int | None = None
    eps_ref_of: str = ""
    source: Network | None = None
    targets: bool = False
    radii: Mapping[str, Sequence[float | str]] = field(default_factory=dict)
    learned: Mapping[str, Learned] = field(default_factory=dict)


@dataclass(frozen=True)
class Reduced:
    """A form with less of the paper's budget: `what` says it in words.

    images    most test images of an evaluation
    training  pairs of a pattern of recipes' names, and changes of those recipes
    attacks   pairs of an attack's class, and settings of every attack of that class
    """

    what: str
    images: int | None = None
    training: tuple[tuple[str, tuple[str, ...]], ...] = ()
    attacks: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    def changes(self, recipe: str) -> tuple[str, ...]:
        return tuple(change for pattern, changes in self.training if fnmatch(recipe, pattern) for change in changes)

    def settings(self, kind: str) -> dict[str, Any]:
        """What an attack of this class has less of."""
        return {key: value for name, changes in self.attacks if name == kind for key, value in changes.items()}


@dataclass(frozen=True)
class Paper:
    """All of a paper. `name` is that of its file."""

    name: str
    title: str
    authors: tuple[str, ...]
    venue: str
    note: str
    tables: Mapping[str, Table]
    figures: Mapping[str, Figure]
    evaluations: Mapping[str, Evaluation]
    reduced: Mapping[str, Reduced]

    @cached_property
    def wired(self) -> bool:
        return any(each.wired for each in (*self.tables.values(), *self.figures.values()))


def names() -> tuple[str, ...]:
    """The papers that there are."""
    return tuple(sorted(path.stem for path in DATA.glob("*.toml")))


def load_paper(name: str) -> Paper:
    """A paper by its name, or by the path of a file of one's own.

    Raises:
        ValueError: no such paper, or a file with an unknown key or a table whose rows do not have its columns.
    """
    path = Path(name) if name.endswith(".toml") else DATA / f"{name}.toml"
    if not path.is_file():
        raise ValueError(f"there is no paper {name!r}; {nearest(name, names())}")
    settings = parse_toml(path.read_text(encoding="utf-8"))
    try:
        return _paper(path.stem, settings)
    except ValueError as error:
        raise config.in_file(path, error) from error


def _paper(name: str, settings: dict[str, Any]) -> Paper:
    _known(settings, ("paper", "scale", "evaluation", "table", "figure"), "")
    about = settings["paper"]
    _known(about, ("title", "authors", "venue", "note"), "paper")
    evaluations = {each: _evaluation(each, settings["evaluation"]) for each in settings.get("evaluation", {})}
    tables = {each: _table(each, found) for each, found in settings.get("table", {}).items()}
    figures = {each: _figure(each, found) for each, found in settings.get("figure", {}).items()}
    named = {cell.evaluation for table in tables.values() for cell in table.cells if cell.network and cell.evaluation}
    named |= {panel.evaluation for figure in figures.values() for panel in figure.panels if panel.evaluation}
    if unknown := named - evaluations.keys():
        raise ValueError(f"there is no evaluation {min(unknown)!r}; {nearest(min(unknown), evaluations)}")
    reduced = {each: _reduced(each, found) for each, found in settings.get("scale", {}).items()}
    return Paper(
        name,
        about["title"],
        tuple(about["authors"]),
        about.get("venue", ""),
        about.get("note", ""),
        tables,
        figures,
        evaluations,
        reduced,
    )


def _evaluation(name: str, every: Mapping[str, dict[str, Any]], above: tuple[str, ...] = ()) -> Evaluation:
    settings = _merged(name, every, above)
    own = ("space", "seed", "batch_size", "eps_ref_of", "source", "targets", "radii", "images", "learned")
    given = {key: settings.pop(key) for key in own if key in settings}
    where = f"evaluation.{name}"
    if "source" in given:
        (given["source"],) = _networks(given["source"], f"{where}.source")
    learned = given.pop("learned", {})
    return Evaluation(
        name, settings, **given, learned={key: _learned(each, f"{where}.learned") for key, each in learned.items()}
    )


def _learned(attack: str | dict[str, Any], where: str) -> Learned:
    if isinstance(attack, str):
        return Learned(attack)
    _known(attack, ("recipe", "begin", "attack"), where)
    return Learned(**attack)


def _merged(name: str, every: Mapping[str, dict[str, Any]], above: tuple[str, ...]) -> dict[str, Any]:
    if name not in every:
        raise ValueError(f"evaluation.{above[-1]}.base: there is no evaluation {name!r}; {nearest(name, every)}")
    if name in above:
        raise ValueError(f"evaluation.{name}.base: it begins from itself")
    settings = dict(every[name])
    base = settings.pop("base", None)
    return settings if base is None else config.merged(_merged(base, every, (*above, name)), settings)


def _reduced(name: str, settings: dict[str, Any]) -> Reduced:
    if name not in SCALES[1:]:
        raise ValueError(f"scale.{name}: a reduced scale is {' or '.join(SCALES[1:])}")
    _known(settings, ("what", "images", "training", "attacks"), f"scale.{name}")
    training = tuple((each["recipes"], tuple(each["set"])) for each in settings.get("training", ()))
    attacks = tuple((each["kind"], each["set"]) for each in settings.get("attacks", ()))
    return Reduced(settings["what"], settings.get("images"), training, attacks)


def _table(name: str, settings: dict[str, Any]) -> Table:
    where = f"table.{name}"
    _known(settings, (*PRINTED, *OF_TABLE, *OWN_OF_TABLE), where)
    more = settings.get("extra_columns", [])
    columns = (*settings["columns"], *(each["name"] for each in more))
    one = settings.get("unit", "")
    units = settings["units"] if one == "per column" else [one] * len(settings["columns"])
    units = (*units, *(each.get("unit", "") for each in more))
    rows = [_row(each, settings, units, more, f"{where}.rows", False) for each in settings["rows"]]
    rows += [_row(each, settings, units, more, f"{where}.extra", True) for each in settings.get("extra", ())]
    units = ("%" if unit == FRACTION else unit for unit in units)
    note, why = settings.get("note", ""), settings.get("why", "")
    return Table(name, settings["caption"], note, why, columns, tuple(units), tuple(rows), len(more))


def _row(
    row: dict[str, Any],
    table: dict[str, Any],
    units: Sequence[str],
    more: list[dict[str, Any]],
    where: str,
    ours: bool,
) -> Row:
    _known(row, ("name", "values", *PRINTED_OF_ROW, *OWN_OF_ROW), where)
    count = len(table["columns"])
    values = [*row.get("values", [None] * count), *[None] * len(more)]
    if len(values) != count + len(more):
        raise ValueError(f"{where}: {row['name']} has {len(values) - len(more)} values for {count} columns")
    recipes = table.get("column_recipes", [""] * count)
    evaluations = table.get("column_evaluations", [""] * count)
    measures = row.get("measures", table.get("measures", [""] * count))
    every = measures if len(measures) > count else [*measures, *(each.get("measure", "") for each in more)]
    for what, given, size in (
        ("column_recipes", recipes, count),
        ("column_evaluations", evaluations, count),
        ("measures", every, len(values)),
    ):
        if len(given) != size:
            raise ValueError(f"{where}: {what} has {len(given)} entries for {size} columns")
    cells = []
    for place, value in enumerate(values):
        own = more[place - count] if place >= count else {}
        recipe = row.get("recipe") or (own.get("recipe", "") if own else recipes[place])
        of_column = own.get("evaluation", "") if own else evaluations[place]
        evaluation = of_column or row.get("evaluation") or table.get("evaluation", "")
        measure = every[place]
        made = bool(recipe and measure) and not row.get("missing")
        network = Network(recipe, tuple(row.get("set", ()))) if made else None
        evaluation = "" if measure in OF_TRAINING else evaluation
        printed = _printed(value, units[place])
        missing = row.get("missing") or table.get("missing", "")
        cells.append(Cell(printed, network, evaluation, measure, missing))
    facts = {key: row[key] for key in SHOWN_OF_ROW if key in row}
    return Row(row["name"], facts, tuple(cells), row.get("note", ""), ours)


def _printed(value: Any, unit: str) -> Printed:
    """A number, in percent where a fraction is printed, or text in a table of layers; None for a dash."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    return None if math.isnan(number) else round(100 * number, 9) if unit == FRACTION else number


def _figure(name: str, settings: dict[str, Any]) -> Figure:
    _known(settings, (*PRINTED, *OF_FIGURE, *OWN_OF_FIGURE), f"figure.{name}")
    kind = settings.get("kind", "")
    if kind not in ("", *CHARTS, "images", "drawn"):
        raise ValueError(f"figure.{name}.kind: there is no kind {kind!r} of figures")
    panels = tuple(_panel({"kind": kind} | each, f"figure.{name}.draw") for each in settings.get("draw", ()))
    if wrong := [each.kind for each in panels if each.kind != kind and not {each.kind, kind} <= set(CHARTS)]:
        raise ValueError(f"figure.{name}.draw.kind: {wrong[0]!r} cannot stand in a figure of kind {kind!r}")
    texts = (settings.get(key, "") for key in ("caption", "shows", "note", "why", "missing"))
    return Figure(name, *texts, kind=kind, by=settings.get("by", ""), panels=panels)


def _panel(settings: dict[str, Any], where: str) -> Panel:
    _known(settings, ("title", "kind", "curves", "x", "y", "evaluation", "attack", "images", "success"), where)
    curves = {name: _networks(each, f"{where}.curves.{name}") for name, each in settings["curves"].items()}
    return Panel(**(settings | {"curves": curves, "images": tuple(settings.get("images", ()))}))


def _networks(curve: str | dict[str, Any] | list[Any], where: str) -> tuple[Network, ...]:
    """A recipe's name, a recipe with a setting that varies, or several of them."""
    if isinstance(curve, list):
        return tuple(network for each in curve for network in _networks(each, where))
    if isinstance(curve, str):
        return (Network(curve),)
    _known(curve, ("recipe", "set", "vary", "values"), where)
    always = tuple(curve.get("set", ()))
    if "vary" not in curve:
        return (Network(curve["recipe"], always),)
    return tuple(Network(curve["recipe"], (*always, f"{curve['vary']}={value}")) for value in curve["values"])


def _known(settings: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := [key for key in settings if key not in known]:
        path = config.join(where, unknown[0])
        raise ValueError(f"{path}: there is no such key; {nearest(unknown[0], known)}")

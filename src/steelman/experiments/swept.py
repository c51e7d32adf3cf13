"""What is left of a sweep: each network's measures, the robustness curve, and how it compares with another one."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from steelman import config
from steelman.files import decoding, parse_json, write_text
from steelman.measures import Comparison, Line, Measure, at_equal, robustness_curve
from steelman.measures.measure import plain
from steelman.measures.pairwise import same_images
from steelman.measures.robustness import CLEAN_ACCURACY
from steelman.norms import Norm
from steelman.report import draw_robustness, save_figure
from steelman.table import Evaluation
from steelman.table.places import TABLE

if TYPE_CHECKING:
    import rich.table


@dataclass(frozen=True)
class Judging:
    """How the networks are evaluated; the options of `steelman evaluate`, with their defaults."""

    battery: str | None = None
    norm: Norm | None = None
    eps: float | None = None
    survivors_only: bool | None = None
    images: int | None = None


@dataclass(frozen=True)
class Outcome:
    """One network of a sweep.

    run      its folder in the sweep's
    values   of the settings that vary, as TOML
    measures every measure of its table; none before it is evaluated, and where it failed
    seconds  of training
    failed   what went wrong
    """

    run: str
    values: Mapping[str, str]
    measures: Mapping[str, Measure] = field(default_factory=dict)
    seconds: float = 0.0
    failed: str = ""

    @property
    def order(self) -> list[tuple[float, str]]:
        """Numbers by their size, before words."""
        return [_rank(value) for value in self.values.values()]


@dataclass(frozen=True)
class Swept:
    """A sweep, as its folder has it in `sweep.json`.

    recipe    that was varied
    measure   of robustness that is drawn; "" before it is chosen
    outcomes  the networks, in order of their values
    """

    FILE: ClassVar[str] = "sweep.json"

    folder: Path
    recipe: str
    judging: Judging
    measure: str
    outcomes: tuple[Outcome, ...]

    @staticmethod
    def load(folder: Path) -> "Swept":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no sweep.
            ValueError: the file is not a sweep's.
        """
        path = folder / Swept.FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is no sweep: there is no {path}. `steelman sweep` makes one")
        with decoding(path, "what a sweep writes", "Delete it, and call the sweep again: trained networks stay"):
            found = parse_json(path.read_bytes())
            judging = config.read(Judging, found["evaluation"])
            outcomes = tuple(_outcome(each) for each in found["networks"])
            if not outcomes or not isinstance(found["recipe"], str) or not isinstance(found["measure"], str):
                raise TypeError("it needs a recipe, a measure and networks")
            return Swept(folder, found["recipe"], judging, found["measure"], outcomes)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def varied(self) -> tuple[str, ...]:
        return tuple(self.outcomes[0].values)

    def curves(self, measure: str = "") -> dict[str, Line]:
        """A robustness curve along the first setting for each combination of the others, by what these are."""
        groups: dict[str, dict[str, Mapping[str, Measure]]] = {}
        first, *others = self.varied
        for each in self.outcomes:
            if (found := each.measures.get(measure or self.measure)) is None or not isfinite(found.value):
                continue
            told = ", ".join(f"{path}={each.values[path]}" for path in others) or self.name
            groups.setdefault(told, {})[each.values[first]] = each.measures
        return {told: robustness_curve(models, measure or self.measure) for told, models in groups.items()}

    def save(self) -> None:
        """Write `sweep.json`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = {
            "recipe": self.recipe,
            "evaluation": config.write(self.judging),
            "measure": self.measure,
            "networks": [{**vars(each), "measures": plain(dict(each.measures))} for each in self.outcomes],
        }
        write_text(self.folder / self.FILE, json.dumps(found, indent=2, ensure_ascii=False) + "\n")

    def write(self) -> None:
        """Write what is read by others: `sweep.csv`, `robustness.png` and `.svg`."""
        write_text(self.folder / "sweep.csv", self.csv())
        if curves := self.curves():
            save_figure(draw_robustness(curves), self.picture)

    def csv(self) -> str:
        """A line per network: its values, clean accuracy and robustness with intervals, seconds of training."""
        shown = (CLEAN_ACCURACY, self.measure)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        ends = (f"{name}{end}" for name in shown for end in ("", ", low", ", high"))
        writer.writerow(["run", *self.varied, *ends, "training seconds", "failed"])
        for each in self.outcomes:
            found = (each.measures.get(name) for name in shown)
            numbers = [number for m in found for number in ((m.value, m.low, m.high) if m else ("", "", ""))]
            writer.writerow([each.run, *each.values.values(), *numbers, each.seconds, each.failed])
        return text.getvalue()

    def terminal_table(self) -> "rich.table.Table":
        """The networks with clean accuracy, robustness and seconds of training; print it with `rich.print`."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(f"{self.name}: 95 % intervals"), title_justify="left")
        for name in (*self.varied, CLEAN_ACCURACY, self.measure, "training"):
            table.add_column(Text(name), justify="right", overflow="fold")
        for each in self.outcomes:
            missing = "not measured" if each.measures else "failed" if each.failed else "not yet"
            shown = (str(each.measures.get(name, missing)) for name in (CLEAN_ACCURACY, self.measure))
            table.add_row(*map(Text, (*each.values.values(), *shown, f"{each.seconds:.3g} s")))
        return table

    def against(self, other: "Swept") -> dict[str, Comparison | str]:
        """Every curve of ours beside every one of theirs at equal clean accuracy, by what is compared; or why not.

        Raises:
            ValueError: they were not evaluated on the same images, or the other has no such measure.
        """
        ours, theirs = self._table(), other._table()
        if ours is not None and theirs is not None:
            same_images(ours, theirs)
        their_curves = other.curves(self.measure)
        if not their_curves:
            raise ValueError(f"{other.folder} has no {self.measure}: evaluate both sweeps by the same --battery")
        found: dict[str, Comparison | str] = {}
        for (name, line), (their_name, their_line) in product(self.curves().items(), their_curves.items()):
            try:
                found[f"{name} − {their_name}"] = at_equal(line, their_line)
            except ValueError as error:
                found[f"{name} − {their_name}"] = str(error)
        return found

    def comparison_table(self, other: "Swept") -> "rich.table.Table":
        """`against` for the terminal."""
        from rich.table import Table
        from rich.text import Text

        share = self.measure_is_share
        title = f"{self.measure} at equal clean accuracy, on the straight lines between the networks that were trained"
        table = Table(title=Text(title), title_justify="left")
        for name in (CLEAN_ACCURACY, self.name, other.name, "difference, points" if share else "difference"):
            table.add_column(Text(name), justify="right", overflow="fold")
        compared = self.against(other)
        for name, found in compared.items():
            if len(compared) > 1:
                table.add_row(Text(name, "bold"))
            if isinstance(found, str):
                table.add_row(Text(found), end_section=True)
                continue
            for x, ours, theirs in zip(found.x, found.ours, found.theirs, strict=True):
                table.add_row(
                    _shown(x, True), _shown(ours, share), _shown(theirs, share), _signed(ours - theirs, share)
                )
            reach = f"mean, {_shown(found.x[0], True)} to {_shown(found.x[-1], True)}"
            table.add_row(reach, "", "", _signed(found.mean, share), end_section=True)
        return table

    @property
    def measure_is_share(self) -> bool:
        return any(
            each.measures[self.measure].kind == "share" for each in self.outcomes if self.measure in each.measures
        )

    @property
    def picture(self) -> Path:
        return self.folder / "robustness.png"

    def draw_against(self, other: "Swept") -> Path:
        """Both sweeps' curves in one picture; returns its path."""
        path = self.folder / f"robustness-against-{other.name}.png"
        named = {
            told if told == sweep.name else f"{sweep.name}, {told}": line
            for sweep in (self, other)
            for told, line in sweep.curves(self.measure).items()
        }
        save_figure(draw_robustness(named), path)
        return path

    def _table(self) -> Evaluation | None:
        paths = (self.folder / each.run / "evaluation" / TABLE for each in self.outcomes)
        return next((Evaluation.load(path) for path in paths if path.is_file()), None)


def _shown(value: float, share: bool) -> str:
    return f"{100 * value:.2f} %" if share else f"{value:.4g}"


def _signed(value: float, share: bool) -> str:
    return f"{100 * value:+.2f}" if share else f"{value:+.3g}"


def _outcome(found: dict[str, Any]) -> Outcome:
    """A network of a sweep's file.

    Raises:
        KeyError, TypeError, ValueError: something is missing or of another kind, or its folder lies elsewhere.
    """
    run, values = found["run"], found["values"]
    if Path(run).name != run or run in ("", ".."):
        raise ValueError(f"{run!r} is no name of a folder in it")
    if not values or not all(isinstance(each, str) for each in (*values, *values.values())):
        raise TypeError(f"the values of {run} are texts")
    seconds, failed = float(found.get("seconds", 0)), str(found.get("failed", ""))
    return Outcome(run, values, {name: _measure(each) for name, each in found["measures"].items()}, seconds, failed)


def _rank(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return inf, value


def _measure(found: dict[str, Any]) -> Measure:
    ends: dict[str, Any] = {key: inf if value is None else value for key, value in found.items()}
    return Measure(**ends)

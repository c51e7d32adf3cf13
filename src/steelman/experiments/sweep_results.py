"""The results of a sweep: each network's measures, the robustness curve, and a comparison with another sweep."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from math import inf, isfinite
from pathlib import Path
from typing import Any, ClassVar

from steelman import config
from steelman.files import decoding, parse_json, write_text
from steelman.measures import Comparison, Line, Measure, at_equal, robustness_curve
from steelman.measures.measure import plain
from steelman.measures.pairwise import same_images
from steelman.measures.paper_table import PaperTable, TableColumn
from steelman.measures.robustness import CLEAN_ACCURACY
from steelman.norms import Norm
from steelman.report import draw, robustness_chart, save_figure
from steelman.table import Evaluation
from steelman.table.places import TABLE


@dataclass(frozen=True)
class EvaluationOptions:
    """How the networks are evaluated; the options of `steelman evaluate`, with their defaults."""

    battery: str | None = None
    norm: Norm | None = None
    eps: float | None = None
    survivors_only: bool | None = None
    images: int | None = None


@dataclass(frozen=True)
class SweptNetwork:
    """One network of a sweep.

    run      its folder in the sweep's
    values   of the settings that vary, as TOML
    measures every measure of its table; none before it is evaluated, and where it failed
    seconds  of training
    failed   the error, where there was one
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

    def __str__(self) -> str:
        return ", ".join(f"{path}={value}" for path, value in self.values.items())


@dataclass(frozen=True)
class SweepResults:
    """A sweep, as its folder has it in `sweep.json`.

    recipe    that was varied
    options   of the evaluation
    measure   of robustness that is drawn; "" before it is chosen
    networks  in order of their values
    """

    FILE: ClassVar[str] = "sweep.json"

    folder: Path
    recipe: str
    options: EvaluationOptions
    measure: str
    networks: tuple[SweptNetwork, ...]

    @staticmethod
    def load(folder: Path) -> "SweepResults":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no sweep.
            ValueError: the file is not a sweep's.
        """
        path = folder / SweepResults.FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is no sweep: there is no {path}. `steelman sweep` makes one")
        with decoding(path, "what a sweep writes", "Delete it, and call the sweep again: trained networks stay"):
            found = parse_json(path.read_bytes())
            options = config.read(EvaluationOptions, found["evaluation"])
            networks = tuple(_network(each) for each in found["networks"])
            if not networks or not isinstance(found["recipe"], str) or not isinstance(found["measure"], str):
                raise TypeError("it needs a recipe, a measure and networks")
            return SweepResults(folder, found["recipe"], options, found["measure"], networks)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def varied(self) -> tuple[str, ...]:
        return tuple(self.networks[0].values)

    @property
    def picture(self) -> Path:
        return self.folder / "robustness.png"

    def curves(self, measure: str = "") -> dict[str, Line]:
        """A robustness curve along the first setting for each combination of the others, by their values."""
        groups: dict[str, dict[str, Mapping[str, Measure]]] = {}
        first, *others = self.varied
        for each in self.networks:
            if (found := each.measures.get(measure or self.measure)) is None or not isfinite(found.value):
                continue
            label = ", ".join(f"{path}={each.values[path]}" for path in others) or self.name
            groups.setdefault(label, {})[each.values[first]] = each.measures
        return {label: robustness_curve(models, measure or self.measure) for label, models in groups.items()}

    def save(self) -> None:
        """Write `sweep.json`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = {
            "recipe": self.recipe,
            "evaluation": config.write(self.options),
            "measure": self.measure,
            "networks": [{**vars(each), "measures": plain(dict(each.measures))} for each in self.networks],
        }
        write_text(self.folder / self.FILE, json.dumps(found, indent=2, ensure_ascii=False) + "\n")

    def write(self) -> None:
        """Write the files for readers: `sweep.csv`, `robustness.png` and `.svg`."""
        write_text(self.folder / "sweep.csv", self.csv())
        if curves := self.curves():
            save_figure(draw(robustness_chart(curves)), self.picture)

    def csv(self) -> str:
        """A line per network: its values, clean accuracy and robustness with intervals, seconds of training."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        ends = (f"{name}{end}" for name in (CLEAN_ACCURACY, self.measure) for end in ("", ", low", ", high"))
        writer.writerow(["run", *self.varied, *ends, "training seconds", "failed"])
        for each in self.networks:
            found = (each.measures.get(name) for name in (CLEAN_ACCURACY, self.measure))
            numbers = [number for m in found for number in ((m.value, m.low, m.high) if m else ("", "", ""))]
            writer.writerow([each.run, *each.values.values(), *numbers, each.seconds, each.failed])
        return text.getvalue()

    def table(self) -> PaperTable:
        """The networks with clean accuracy, robustness and seconds of training."""
        names = (CLEAN_ACCURACY, self.measure)
        columns = (*(TableColumn(name) for name in names), TableColumn("training, s", better=None))
        rows = tuple(", ".join(each.values.values()) for each in self.networks)
        cells = tuple((*map(each.measures.get, names), each.seconds or None) for each in self.networks)
        failed = tuple(f"{each}: failed" for each in self.networks if each.failed)
        return PaperTable(f"{self.name}.", ", ".join(self.varied), columns, rows, cells, failed)

    def against(self, other: "SweepResults") -> dict[str, Comparison | str]:
        """Each of our curves compared with each of theirs at equal clean accuracy, or why it cannot be.

        Raises:
            ValueError: they were not evaluated on the same images, or the other has no such measure.
        """
        ours, theirs = self._evaluation(), other._evaluation()
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

    def comparison_tables(self, other: "SweepResults") -> list[PaperTable | str]:
        """`against` as a table for each pair of curves; a line of text for a pair that cannot be compared."""
        share = any(found.kind == "share" for each in self.networks if (found := each.measures.get(self.measure)))
        scale, unit = (100, " in %") if share else (1, "")
        columns = tuple(TableColumn(label, better=None) for label in (self.name, other.name, "difference"))
        tables: list[PaperTable | str] = []
        for name, found in self.against(other).items():
            if isinstance(found, str):
                tables.append(f"{name}: {found}")
                continue
            rows = (*map(_percent, found.x), f"mean, {_percent(found.x[0])} to {_percent(found.x[-1])}")
            lines = zip(found.ours, found.theirs, found.differences, strict=True)
            cells = (*(tuple(scale * each for each in line) for line in lines), (None, None, scale * found.mean))
            caption = f"{name}: {self.measure}{unit} at equal clean accuracy, on lines between the trained networks."
            tables.append(PaperTable(caption, CLEAN_ACCURACY, columns, rows, cells))
        return tables

    def draw_against(self, other: "SweepResults") -> Path:
        """Both sweeps' curves in one picture; returns its path."""
        path = self.folder / f"robustness-against-{other.name}.png"
        named = {
            label if label == sweep.name else f"{sweep.name}, {label}": line
            for sweep in (self, other)
            for label, line in sweep.curves(self.measure).items()
        }
        save_figure(draw(robustness_chart(named)), path)
        return path

    def _evaluation(self) -> Evaluation | None:
        paths = (self.folder / each.run / "evaluation" / TABLE for each in self.networks)
        return next((Evaluation.load(path) for path in paths if path.is_file()), None)


def _network(found: dict[str, Any]) -> SweptNetwork:
    """A network of a sweep's file.

    Raises:
        KeyError, TypeError, ValueError: something is missing or of another kind, or its folder lies elsewhere.
    """
    run, values = found["run"], found["values"]
    if Path(run).name != run or run in ("", ".."):
        raise ValueError(f"{run!r} is no name of a folder in it")
    if not values or not all(isinstance(each, str) for each in (*values, *values.values())):
        raise TypeError(f"the values of {run} are texts")
    measures = {name: _measure(each) for name, each in found["measures"].items()}
    return SweptNetwork(run, values, measures, float(found.get("seconds", 0)), str(found.get("failed", "")))


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _rank(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return inf, value


def _measure(found: dict[str, Any]) -> Measure:
    ends: dict[str, Any] = {key: inf if value is None else value for key, value in found.items()}
    return Measure(**ends)

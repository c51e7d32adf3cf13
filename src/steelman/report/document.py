"""A report's facts, each worked out once; the page, Markdown and JSON only render them."""

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import date
from functools import cached_property
from importlib.metadata import version

import numpy as np

from steelman.identity import digest
from steelman.measures.accuracies import threats
from steelman.measures.audits import audits
from steelman.measures.masking import Sign
from steelman.measures.measure import Measure
from steelman.measures.paper_table import PaperTable
from steelman.measures.rows import rows
from steelman.measures.transfer import Transfer, black_box_table, transfer_table
from steelman.measures.waterfalls import Waterfall, waterfall
from steelman.norms import NORMS
from steelman.report.answers import Threat, threat_name
from steelman.report.charts import Chart, Curves, charts_of, curves_of
from steelman.report.entry import Entry, comparable, measured
from steelman.report.papers import Shape, shaped
from steelman.report.plots import Picture, pictures_of
from steelman.report.signs import signs_of
from steelman.report.verdicts import ModelPair, Verdict, judged, listed, model_pairs, shared_shares
from steelman.table.records import Provenance, Record

SOFTWARE = """@software{{steelman,
  author    = {{{{The Steelman authors}}}},
  title     = {{{{Steelman}}}},
  version   = {{{}}},
}}"""


@dataclass(frozen=True)
class AttackRun:
    """An attack on one model, and its cost: means over the images, seconds in all.

    not_sampled  of an attack on a sample, the images that nothing has broken and that it was not run on
    """

    name: str
    space: str
    record: Record
    images: int
    forwards: float | None
    gradients: float | None
    seconds: float
    not_sampled: int = 0

    @property
    def covers(self) -> str:
        """The images that it was run on, and how many of a sample's population it was not."""
        return f"{self.images} ({self.not_sampled} not sampled)" if self.not_sampled else str(self.images)


@dataclass(frozen=True)
class Drop:
    """Of `images`, `count` are taken away by a step of a waterfall; `left` remain."""

    count: int
    left: int
    images: int

    @property
    def share(self) -> float:
        return 100 * self.count / self.images


@dataclass(frozen=True)
class Step:
    """A step of the waterfalls of all models; None where an attack was not run."""

    name: str
    is_attack: bool
    drops: tuple[Drop | None, ...]


@dataclass(frozen=True)
class Document:
    """The facts of a report on some models.

    entries    the models, in the order in which they are shown
    transfers  what images crafted on one model do to the others, one per attack
    title      heading; by default made from the models' names
    classes    names of the classes for the gallery; numbers without them
    on         the date that is printed, today by default
    shape      of the table in which several models are side by side (see `paper_table`)

    Raises:
        ValueError: no entries, or models that cannot be compared.
    """

    entries: Sequence[Entry]
    transfers: Sequence[Transfer] = ()
    _: KW_ONLY
    title: str = ""
    classes: Sequence[str] = ()
    on: str = ""
    shape: Shape = "auto"

    def __post_init__(self) -> None:
        entries = comparable(self.entries)
        names = [entry.name for entry in entries]
        shown = listed(names) if len(names) < 4 else f"these {len(names)} models"
        object.__setattr__(self, "entries", entries)  # frozen
        object.__setattr__(self, "on", self.on or date.today().isoformat())
        object.__setattr__(self, "title", self.title or f"How robust {'is' if len(names) == 1 else 'are'} {shown}?")

    @cached_property
    def shares(self) -> dict[Threat, dict[str, Measure]]:
        """By norm and radius at which all models were attacked, their robust accuracies."""
        return shared_shares(self.entries)

    @cached_property
    def signs(self) -> dict[str, tuple[Sign, ...]]:
        """By model, the signs of masked gradients."""
        return {entry.name: signs_of(entry, self.transfers) for entry in self.entries}

    @property
    def sign_rows(self) -> list[tuple[Sign, ...]]:
        """By question, the signs of all models."""
        return list(zip(*self.signs.values(), strict=True))

    @cached_property
    def verdict(self) -> Verdict:
        return judged(self.entries, self.shares, self.signs)

    @cached_property
    def pairs(self) -> tuple[ModelPair, ...]:
        """The first model against each other one."""
        return model_pairs(self.entries)

    @property
    def main_pairs(self) -> list[ModelPair]:
        """Those that are worth a sentence: unattacked, and within the verdict's threat."""
        return [pair for pair in self.pairs if pair.paired.under in ("no attack", self.verdict.attack)]

    @cached_property
    def measured(self) -> list[str]:
        """The names of all measures that any of the models has."""
        return measured(self.entries)

    @cached_property
    def table(self) -> PaperTable:
        """The models in the shape of a paper's table."""
        return shaped(self.entries, self.shape, self.transfers)

    @cached_property
    def measures(self) -> PaperTable:
        """Every measure in a row, the models in the columns."""
        return shaped(self.entries, "all").transposed("Measure")

    @cached_property
    def transfer_tables(self) -> list[PaperTable]:
        return [transfer_table(each) for each in self.transfers]

    @cached_property
    def black_box(self) -> PaperTable | None:
        return black_box_table(self.transfers) if self.transfers else None

    @cached_property
    def curves(self) -> Curves:
        return curves_of(self.entries)

    @cached_property
    def charts(self) -> dict[str, Chart]:
        """Every picture as numbers, by file name."""
        return charts_of(self.entries, self.curves)

    @cached_property
    def pictures(self) -> dict[str, Picture]:
        """Every picture drawn, by file name."""
        return pictures_of(self.charts)

    @cached_property
    def gaps(self) -> list[str]:
        """The measures that tables cannot give, and why: a line for each reason."""
        found: dict[tuple[str, str], list[str]] = {}
        for entry in self.entries:
            for name, why in entry.unmeasured.items():
                attack = name.partition(", ")[2]
                if attack and why.startswith(f"{attack} was run"):
                    why = f"the attack{why.removeprefix(attack)}"
                found.setdefault((entry.name, why), []).append(name)
        lines: dict[str, list[str]] = {}
        for (entry, why), names in found.items():
            lines.setdefault(f"{'; '.join(names)}: {why}", []).append(entry)
        many = len(self.entries)
        return [line if len(names) == many else f"{listed(names)}: {line}" for line, names in lines.items()]

    @cached_property
    def waterfalls(self) -> dict[str, list[Step]]:
        """By norm, radius and space: the steps down, and the images that each model loses at them."""
        found: dict[tuple[str, float, str], dict[str, Waterfall]] = {}
        for entry in self.entries:
            for space, table in entry.spaces.items():
                for norm, eps in threats(table):
                    try:
                        found.setdefault((norm, eps, space), {})[entry.name] = waterfall(table, NORMS[norm], eps)
                    except ValueError:  # rows are missing
                        continue
        return {
            threat_name(norm, eps) + ("" if space == "pixels" else f" ({space} space)"): self._steps(models, space)
            for (norm, eps, space), models in found.items()
        }

    def _steps(self, models: dict[str, Waterfall], space: str) -> list[Step]:
        names = list(dict.fromkeys(name for each in models.values() for name in each.broken))
        columns: list[list[Drop | None]] = []
        for entry in self.entries:
            fall = models.get(entry.name)
            if fall is None:
                columns.append([None] * (len(names) + 2))
                continue
            left, drops = fall.images, []
            ran = entry.spaces[space].attacks
            for count in (fall.natural_errors, *(fall.broken.get(name, 0 if name in ran else None) for name in names)):
                left -= count or 0
                drops.append(None if count is None else Drop(count, left, fall.images))
            columns.append([*drops, Drop(fall.still_correct, 0, fall.images)])
        steps = ("Wrong unattacked", *names, "Still right")
        return [Step(name, name in names, tuple(drops)) for name, *drops in zip(steps, *columns, strict=True)]

    @cached_property
    def attacks(self) -> dict[str, list[AttackRun]]:
        """By model, its attacks and their cost."""
        return {entry.name: _attacks(entry) for entry in self.entries}

    @cached_property
    def attack_rows(self) -> list[list[AttackRun]]:
        """The attacks that were run on any image, each with its runs on all models."""
        found: dict[tuple[str, str, str], list[AttackRun]] = {}
        for runs in self.attacks.values():
            for run in runs:
                if run.images:
                    found.setdefault((run.name, run.space, run.record.method), []).append(run)
        return list(found.values())

    @cached_property
    def cited(self) -> str:
        """The references of the methods that were used, and their papers as BibTeX.

        Of methods from elsewhere, those whose module is imported.
        """
        from steelman.methods import citable, cite

        named: list[str] = []
        for entry in self.entries:
            for table in entry.spaces.values():
                named += [kind for record in table.records for kind in record.kinds()]
            named += re.findall(r'\bkind = "([\w.]+(?::\w+)?)"', entry.recipe)
        used = citable(named)
        return "\n\n".join([SOFTWARE.format(version("steelman")), *([cite(used)] if used else [])])


def _attacks(entry: Entry) -> list[AttackRun]:
    found = []
    for space, table in entry.spaces.items():
        columns = {name: table[name] for name in ("forwards", "gradients", "seconds")}
        audited = audits(table)
        for name, attack in rows(table).attacks.items():
            own = np.sort(attack.row[attack.attacked])
            forwards, gradients = (
                float(columns[key][own].mean()) if len(own) else None for key in ("forwards", "gradients")
            )
            seconds = float(columns["seconds"][own].sum())
            rest = next((each.standing - each.sampled for each in audited if each.attack == name), 0)
            found.append(AttackRun(name, space, attack.record, len(own), forwards, gradients, seconds, rest))
    return found


def evaluated(entry: Entry) -> dict[str, str]:
    """The data and model of a model's tables, and where they were made: each place, where they were made in parts."""
    tables = entry.spaces.values()
    about, seeds = entry.evaluation.about, {record.seed for table in tables for record in table.records}
    made: dict[Provenance, list[str]] = {}
    for table in tables:
        for place, names in table.made.items():
            made.setdefault(place, []).extend(name for name in names if name not in made[place])
    facts = {
        "images of": about.get("data", ""),
        "model": digest(about["model"]) if about.get("model") else "",
        "seed": ", ".join(map(str, sorted(seeds))),
    }
    for number, (place, names) in enumerate(made.items(), 1):
        facts["made" if len(made) == 1 else f"part {number} ({', '.join(names)})"] = str(place)
        if place.command:
            facts["command" if len(made) == 1 else f"command of part {number}"] = place.command
    return {key: value for key, value in facts.items() if value}

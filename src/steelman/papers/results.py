"""What was measured for a paper, as JSON beside its page: enough to make the page again."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steelman.files import decoding, parse_json, write_text
from steelman.measures import Measure
from steelman.measures.measure import from_plain
from steelman.papers.jobs import Jobs, Measured, Trained
from steelman.papers.paper import OF_TRAINING, SCALES, Cell, Network, Paper

MOST_SEEDS = 20


@dataclass(frozen=True)
class Value:
    """A number of ours: the mean over seeds, with the ends of its 95 % interval.

    images, seeds   over how many of them
    failures        images for which an attack found nothing, over all seeds
    reduced         what of the paper's budget is left out, in words, and the scale's name
    """

    value: float
    low: float
    high: float
    kind: str
    images: int
    seeds: int
    failures: int
    scale: str
    reduced: str


@dataclass
class Results:
    """Entries by the names of jobs: `networks` of trainings, `evaluations` of measurements, `pictures` of figures."""

    paper: str
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: dict[str, dict[str, Any]] = field(default_factory=dict)
    command: str = ""

    @staticmethod
    def load(folder: Path, paper: str) -> "Results":
        """What is there; nothing where there is no file.

        Raises:
            ValueError: the file is damaged, or of something else.
        """
        path = folder / f"{paper}.json"
        if not path.is_file():
            return Results(paper)
        with decoding(path, "what `steelman reproduce` writes", "Delete it, and call `steelman reproduce` again"):
            found = parse_json(path.read_bytes())
            keys = ("networks", "evaluations", "pictures")
            if found["paper"] != paper or not all(isinstance(found[key], dict) for key in keys):
                raise TypeError(f"it is not of {paper}")
            return Results(paper, *(found[key] for key in keys), command=str(found["command"]))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"networks": self.networks, "evaluations": self.evaluations, "pictures": self.pictures}
        ordered = {name: dict(sorted(part.items())) for name, part in parts.items()}
        found = {"paper": self.paper, "command": self.command, **ordered}
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(folder / f"{self.paper}.json", text + "\n")

    def keep(self, job: Trained | Measured, entry: dict[str, Any]) -> None:
        (self.networks if isinstance(job, Trained) else self.evaluations)[job.name] = entry

    def entry(self, job: Trained | Measured) -> dict[str, Any] | None:
        """The entry of a finished job, if its settings are the same and it has the measures that are asked for."""
        found = (self.networks if isinstance(job, Trained) else self.evaluations).get(job.name)
        if found is None or found["digest"] != job.digest:
            return None
        known = isinstance(job, Trained) or job.wants <= {*found["measures"], *found.get("unmeasured", ())}
        return found if known else None

    @property
    def entries(self) -> Iterator[dict[str, Any]]:
        yield from (*self.networks.values(), *self.evaluations.values())


@dataclass(frozen=True)
class Reader:
    """Finds the numbers of a paper's cells and figures among the results: those of the largest scale that there is."""

    paper: Paper
    results: Results
    _jobs: dict[tuple[str, int], Jobs] = field(default_factory=dict, repr=False)

    def jobs(self, scale: Any, seed: int) -> Jobs:
        if (scale, seed) not in self._jobs:
            self._jobs[scale, seed] = Jobs(self.paper, scale, seed, Path("runs"))
        return self._jobs[scale, seed]

    def value(self, cell: Cell) -> Value | None:
        return None if cell.network is None else self.measured(cell.network, cell.evaluation, cell.measure)

    def measured(self, network: Network, evaluation: str, measure: str) -> Value | None:
        """One measure of one network, over its seeds; None where it has not been measured."""
        if measure in OF_TRAINING:
            return self._trained(network, measure)
        for scale, found in self._by_scale(network, evaluation):
            several = [from_plain(each["measures"][measure]) for each in found if measure in each["measures"]]
            if several:
                return _over_seeds(several, scale, found[0]["reduced"])
        return None

    def log(self, network: Network) -> tuple[list[Mapping[str, Any]], str]:
        """The log of a network's training, at the first seed, and what is reduced of it."""
        for scale in SCALES:
            if (found := self.results.entry(self.jobs(scale, 0).trained(network))) is not None:
                return found["log"], f"{scale}: {found['reduced']}" if found["reduced"] else ""
        return [], ""

    def _trained(self, network: Network, measure: str) -> Value | None:
        """Of a training's time, at the first seed."""
        for scale in SCALES:
            if (found := self.results.entry(self.jobs(scale, 0).trained(network))) is not None:
                seconds = found["training_seconds"] / (found["epochs"] if measure == "seconds an epoch" else 1)
                reduced = found["reduced"]
                return Value(seconds, seconds, seconds, "time", 0, 1, 0, scale if reduced else "paper", reduced)
        return None

    def _by_scale(self, network: Network, evaluation: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for scale in SCALES if self.results.evaluations else ():
            found = []
            for seed in range(MOST_SEEDS):
                job = self.jobs(scale, seed).measured(network, self.paper.evaluations[evaluation])
                if (entry := self.results.entry(job)) is None:
                    break
                found.append(entry)
            if found:
                yield scale, found


def _over_seeds(several: list[Measure], scale: str, reduced: str) -> Value:
    """The mean, and an interval of its own spread over seeds and of the images, which all seeds share."""
    from scipy.stats import t

    count, first = len(several), several[0]
    mean = sum(each.value for each in several) / count
    below = sum(each.value - each.low for each in several) / count
    above = sum(each.high - each.value for each in several) / count
    spread = 0.0
    if count > 1:
        deviation = math.sqrt(sum((each.value - mean) ** 2 for each in several) / (count - 1))
        spread = float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    low, high = mean - math.hypot(below, spread), mean + math.hypot(above, spread)
    if math.isinf(mean):
        low, high = min(each.low for each in several), mean
    failures = sum(each.failures for each in several)
    return Value(mean, low, high, first.kind, first.count, count, failures, scale if reduced else "paper", reduced)

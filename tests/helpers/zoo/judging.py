"""What `steelman evaluate` says of the models, in this process."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from steelman.experiments.assess import assess, battery_of, look
from steelman.experiments.opening import open_subject
from steelman.measures import robust_accuracy
from steelman.norms import NORMS
from steelman.report.document import Document
from zoo.entries import Entry

NEAR = 0.05
"""A number is right within so much of the truth, and right enough where it is for ten of twelve models."""


@dataclass(frozen=True)
class Judged:
    """An answer, with the truth beside it: the robust accuracies by all attacks, and by those of the battery alone."""

    entry: Entry
    word: str
    number: float
    before: float
    truth: float
    seconds: float
    sentence: str

    @property
    def near(self) -> bool:
        return abs(self.number - self.truth) <= NEAR + 1e-9

    @property
    def sound(self) -> bool:
        """A masked model is not supported, and an honest one is."""
        if self.entry.kind == "no gradient":
            return self.word in ("supported", "not established", "broken by an adaptive attack")
        return (self.word == "supported") == (self.entry.kind == "honest")

    def __str__(self) -> str:
        shares = " ".join(f"{100 * each:7.1f}" for each in (self.before, self.number, self.truth))
        return f"{self.entry.name:18} {self.entry.kind:12} {shares} {self.seconds:6.0f} s  {self.word}"


def judged(entry: Entry, battery: str = "quick", images: int = 100, seed: int = 0) -> Judged:
    """As `steelman evaluate PATH --data digits --battery BATTERY --images IMAGES`."""
    start = time.monotonic()
    norm = NORMS[entry.norm]
    asked = entry.norm, entry.eps
    subject, found = look(open_subject(entry.path, data="Digits"), None, asked)
    chosen = battery_of(subject, battery, norm, entry.eps)
    made = assess(subject, chosen, found, asked=asked, images=images, seed=seed, progress=False)
    verdict = Document([made], classes=subject.test.classes).verdict
    answer = verdict.answers[0]
    robust = answer.robust
    assert robust is not None, verdict.sentence
    table = made.evaluation
    names = [name for name in table.attacks if not name.startswith("Adaptive ")]
    before = robust_accuracy(table, norm, entry.eps, names).value
    seconds = time.monotonic() - start
    return Judged(entry, answer.word, robust.value, before, entry.truth(images), seconds, verdict.sentence)


def table(answers: Iterable[Judged]) -> Iterator[str]:
    """In percent: what the battery leaves, what all attacks leave, and the truth."""
    yield f"{'model':18} {'kind':12} {'battery':>7} {'all':>7} {'truth':>7}"
    yield from map(str, answers)

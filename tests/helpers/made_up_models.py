"""Two models on made-up tables, and a transfer between them, for the tests of what a report writes."""

from functools import cache
from pathlib import Path

import numpy as np
from torch import nn

from made_up import changed, made_up, table_of
from steelman.attacks import FGSM
from steelman.checkup import Checkup, Finding
from steelman.evaluation.transferability import CraftedOnSource
from steelman.measures import Transfer
from steelman.measures.transfer import from_source
from steelman.report import Entry
from steelman.table import Evaluation
from steelman.table.records import CLEAN, Record, record_of

COUNT = 41
CHECKUP = Checkup((Finding("range", "in [0, 1]"), Finding("slopes", "a | b", "warning", "look")), "gradients")
BLOCK = made_up(COUNT)


def entry(name: str, seed: int, rows=BLOCK, **more) -> Entry:
    """A model on the same images: others of its predictions are wrong."""
    draws = np.random.default_rng(seed)
    wrong = {(row["image"], row["attack"]): draws.random() < 0.3 for row in rows if row["attack"] != "clean"}
    new = changed(rows, prediction=lambda row: (row["prediction"] + wrong.get((row["image"], row["attack"]), 0)) % 3)
    return Entry(name, table_of(new), **more)


def transfer_of(entries: list[Entry], attack: str = "FGSM()") -> Transfer:
    """Made up too: what `weak` and `strong` did stands for images from two sources."""
    sources = {"weak": entries[0].name, "strong": "C"}

    def crafted(record: Record, target: str) -> Record:
        source = sources[record.name]
        made = CraftedOnSource(FGSM(), nn.Flatten(), source, attack, source == target, Path())
        return record_of(from_source(attack, source), made)

    def table(target: Entry) -> Evaluation:
        rows = target.evaluation.only(["clean", *sources])
        rows = rows.replaced(records=[rows.record(name) for name in ("clean", *sources)])
        return rows.recorded(lambda each: each if each.name == CLEAN else crafted(each, target.name))

    return Transfer(attack, {each.name: table(each) for each in entries})


@cache
def two_models() -> tuple[Entry, ...]:
    log = [{"epoch": 0, "clean": 0.1}, {"epoch": 1, "clean": 0.5, "seconds": 2.0}, {"epoch": 2, "seconds": 4.0}]
    first = entry("one_a & 50 %", 1, log=log, info={"data": "none"}, checkup=CHECKUP, recipe='network = "MLP"\n')
    return first, entry("two | <b>", 2)


@cache
def two_transferred() -> Transfer:
    one, two = two_models()
    found = transfer_of([one, two])
    assert (found.sources, found.white) == ((one.name, "C"), {(one.name, one.name)})
    return found

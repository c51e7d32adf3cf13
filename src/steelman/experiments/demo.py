"""`steelman demo`: the main job, from training to report, on data that come with scikit-learn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from steelman.experiments.assess import assess, battery_of, look
from steelman.experiments.run import train
from steelman.files import REPORT, writable
from steelman.report.document import Document
from steelman.report.export import write_document

MODELS = {
    "plain": "plain_digits_mlp",
    "PGD training": "pgd_digits_mlp",
    "Deep Defense": "deep-defense_digits_mlp",
}


def run(runs: Path, say: Callable[[str], None]) -> tuple[Document, list[Path]]:
    """Train three networks, attack each with the same battery, and write one report over them into `runs`/demo."""
    import torch

    writable(runs / "demo", REPORT)
    torch.set_num_threads(1)  # a second thread is of no use to networks this small
    entries = []
    for name, recipe in MODELS.items():
        say(f"training {recipe}")
        found = train(recipe, runs / "demo", None)
        say(f"attacking {recipe}")
        subject, checkup = look(found.subject(None))
        entries.append(replace(assess(subject, battery_of(subject), checkup), name=name))
    document = Document(entries, title="Three ways to train on handwritten digits")
    return document, write_document(runs / "demo", document)

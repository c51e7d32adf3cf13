"""`steelman demo`: the main job, from training to report, on data that come with scikit-learn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from steelman.experiments.assess import assess, battery_of, look
from steelman.experiments.run import train
from steelman.files import REPORT, writable
from steelman.report.entry import Entry
from steelman.report.export import write

MODELS = {
    "plain": "plain_digits_mlp",
    "PGD training": "pgd_digits_mlp",
    "Deep Defense": "deep-defense_digits_mlp",
}


def run(runs: Path, say: Callable[[str], None]) -> tuple[list[Entry], list[Path]]:
    """Train three networks, attack each with the same battery, and write one report over them into `runs`/demo."""
    import torch

    writable(runs / "demo", REPORT)
    torch.set_num_threads(1)  # so small are these networks that a second thread only waits
    entries = []
    for name, recipe in MODELS.items():
        say(f"training {recipe}")
        found = train(recipe, runs / "demo", None)
        say(f"attacking {recipe}")
        subject, checkup = look(found.subject(None))
        entries.append(replace(assess(subject, battery_of(subject), checkup), name=name))
    return entries, write(runs / "demo", entries, title="Three ways to train on handwritten digits")

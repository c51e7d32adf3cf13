"""`steelman demo`: the main job, from training to report, on data that come with scikit-learn."""

from collections.abc import Callable
from pathlib import Path

from steelman.evaluation.entry import Entry
from steelman.evaluation.export import write
from steelman.runs import evaluate_run, train

RECIPES = ("plain_digits_mlp", "pgd_digits_mlp", "deep-defense_digits_mlp")


def run(runs: Path, say: Callable[[str], None]) -> tuple[list[Entry], list[Path]]:
    """Train three networks, attack each with the same battery, and write one report over them into `runs`/demo."""
    import torch

    torch.set_num_threads(1)  # so small are these networks that a second thread only waits
    entries = []
    for name in RECIPES:
        say(f"training {name}")
        found = train(name, runs / "demo", None)
        say(f"attacking {name}")
        entries.append(found.entry_of(evaluate_run(found, None), None))
    classes = found.data("test", None).classes
    return entries, write(runs / "demo", entries, title="Three ways to train on handwritten digits", classes=classes)

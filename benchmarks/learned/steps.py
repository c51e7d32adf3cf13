"""L2L-DA's figure 2: the loss at each step of L2L-DA's and PGD's attacks, over draws, against trained classifiers."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from steelman import L2LDA, PGD, AttackTraining
from steelman.attacks import Attack
from steelman.evaluation import accuracy_over_draws, step_curve
from steelman.experiments.run import Run

LOSSES = ("largest", "mean", "deviation")


def attacks(victim: Run, data: Path | None) -> dict[str, Attack]:
    """L2L-DA by the generator that was trained on this classifier as it is, else by the one it was trained against; and
    PGD with as many steps of the same length."""
    found = sorted(victim.folder.parent.glob(f"*-on-{victim.folder.name}/recipe.toml"))
    generators = [Run.open(path.parent) for path in found]
    run = next((run for run in generators if _adversary(run) is not None), victim)
    adversary = _adversary(run)
    if adversary is None:
        raise ValueError(
            f"no L2L-DA was trained on {victim.folder}: steelman attack-train {victim.folder} L2LDA --runs "
            f"{victim.folder.parent} does it"
        )
    eps = adversary.eps
    step_size = eps / 4 if adversary.step_size is None else adversary.step_size
    generator = run.generator(adversary, run.data("test", data))
    return {
        "L2L-DA": adversary.with_generator(generator),
        "PGD": PGD(eps, steps=adversary.steps, step_size=step_size),
    }


def _adversary(run: Run) -> L2LDA | None:
    game = run.recipe.defence
    adversary = game.adversary if isinstance(game, AttackTraining) else game
    return adversary if isinstance(adversary, L2LDA) else None


def ways(folder: Path, data: Path | None, images: int, draws: int) -> dict[str, Any]:
    """Of each attack on a run's classifier, the losses step by step, and accuracies over the same draws."""
    victim = Run.open(folder)
    test = victim.data("test", data)
    test = test.subset(torch.arange(min(images, len(test))))
    net = victim.network(test)
    found: dict[str, Any] = {}
    for name, attack in attacks(victim, data).items():
        steps = step_curve(net, test, attack, draws)
        accuracies = accuracy_over_draws(net, test, attack, draws)
        found[name] = {
            **{key: values.tolist() for key, values in asdict(steps).items() if key in LOSSES},
            "best": accuracies.best.value,
            "mean accuracy": accuracies.mean,
            "worst": accuracies.worst.value,
            "worst case": accuracies.worst_case.value,
            "images": len(test),
            "draws": draws,
        }
    return found

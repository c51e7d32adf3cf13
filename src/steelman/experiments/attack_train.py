"""A learned adversary trained against the classifier of a run: `steelman attack-train`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from steelman import config
from steelman.adversaries.adversary import Adversary, AttackTraining
from steelman.attacks.bounded.pgd import PGD
from steelman.classes import concrete
from steelman.experiments.recipe import load_recipe, read_recipe
from steelman.experiments.recipe_file import changed, find_recipe
from steelman.experiments.run import Run, train_recipe
from steelman.naming import nearest
from steelman.norms import L2
from steelman.trust import written

HELD_OUT = 1000
"""At most so many training images, and at most a tenth of them, are held out to choose the best generator."""


def attack_train(
    victim: Path,
    adversary: str,
    runs: Path,
    data: Path | None,
    changes: list[str] | None = None,
    called: str | None = None,
) -> Run:
    """Train a learned adversary against the classifier of a run, which stays as it is.

    victim     the run's folder, or a checkpoint in it
    adversary  its name, 'module:Class', or a recipe whose defence is AttackTraining, of which defence, training and
               evaluation are used
    changes    of the recipe that is made of both, such as "defence.adversary.eps=0.1"
    called     the new run's folder in `runs`; default ADVERSARY-on-RUN

    A stopped run is resumed; a finished one is returned as it is. A 'module:name' in `adversary` or `changes` is
    imported; one in the run or recipe only if it is trusted (`steelman.trust`).

    Raises:
        FileNotFoundError, ValueError: no such run, adversary or recipe; invalid settings; a name that is not trusted;
            the folder holds an attack on another classifier or with other settings, or lies outside RUNS.
    """
    run, changes = Run.open(victim), changes or []
    with written(adversary, *changes):
        name, settings = _chosen(adversary, run, data)
        settings |= {"data": config.write(run.recipe.data), "network": run.recipe.network, "start": str(run.checkpoint)}
        if "evaluation" not in settings:
            before = [change for change in changes if not change.lstrip().startswith("evaluation")]
            settings["evaluation"] = {"attacks": _battery(_adversary(settings, before))}
        recipe = read_recipe(changed(settings, changes))
        last = "" if run.which == "best" else f"-{run.which}"
        called = called or f"{name}-on-{run.folder.resolve().name}{last}"
        return train_recipe(recipe, run.folder / "recipe.toml", runs, called, data)  # which names data and network


def _chosen(adversary: str, run: Run, data: Path | None) -> tuple[str, dict[str, Any]]:
    """The first part of the new run's name, and its defence and training; of a recipe also its evaluation."""
    known = concrete(Adversary)
    if adversary in known or ":" in adversary:
        made = config.read(Adversary, adversary, "ADVERSARY")
        held_out = min(HELD_OUT, len(run.data("train", data)) // 10)
        return adversary.rpartition(":")[2], {
            "defence": config.write(AttackTraining(made)),
            "training": {"batch_size": made.batch_size, "validation": held_out},
        }
    try:
        path = find_recipe(adversary)
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no learned adversary {adversary}; {nearest(adversary, known)} (or give a recipe whose defence "
            "is AttackTraining)"
        ) from error
    recipe = load_recipe(path)
    if not isinstance(recipe.defence, AttackTraining):
        raise ValueError(f"{path} does not attack a classifier: its defence is {recipe.defence}, not AttackTraining")
    return path.stem, {name: config.write(getattr(recipe, name)) for name in ("defence", "training", "evaluation")}


def _adversary(settings: dict[str, Any], changes: list[str]) -> Adversary:
    defence = read_recipe(changed(settings, changes)).defence
    if not isinstance(defence, AttackTraining):
        raise ValueError(f"attack-train does not change the classifier, and {defence} trains it: use steelman train")
    return defence.adversary


def _battery(adversary: Adversary) -> dict[str, Any]:
    """The adversary with the generator that is being trained, and PGD with its budget; L2 .5 where it has none."""
    norm, eps = adversary.budget or (L2, 0.5)
    attacks = {
        type(adversary).__name__: replace(adversary, generator=None),
        "PGD": PGD(eps=eps, norm=norm, box=adversary.box),
    }
    return config.write(attacks)

"""Whether a recipe goes on with the run that lies in its folder."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from steelman import config
from steelman.experiments.recipe import Recipe, load_recipe
from steelman.training.distributed import processes
from steelman.training.fingerprint import FREE


def going_on(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the `training.ends` of the run in the folder; of a finished one with fewer epochs, one more."""
    if not (folder / "log.jsonl").is_file() or recipe.training.ends:
        return recipe
    try:
        found = load_recipe(folder / "recipe.toml", resolve=False).training
    except ValueError:
        return recipe  # `refuse_other` says what is wrong with it
    ends = found.ends
    if 0 < found.epochs < recipe.training.epochs and found.iterations is recipe.training.iterations is None:
        if json.loads((folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])["epoch"] != found.epochs:
            return recipe
        ends = (*ends, found.epochs)
        if processes().first:
            print(f"{folder} had ended after {ends[-1]} epochs, and goes on", file=sys.stderr, flush=True)
    elif found.epochs != recipe.training.epochs:
        return recipe
    return replace(recipe, training=replace(recipe.training, ends=ends)) if ends else recipe


def refuse_other(recipe: Recipe, folder: Path) -> None:
    """Raises ValueError where the folder holds a run that was trained with other settings; names them.

    How a run is evaluated may change between two calls. A recipe that cannot be read (earlier versions left such ones
    when they were killed) is an error only beside a checkpoint.
    """
    if not (folder / "recipe.toml").exists():
        return
    try:
        found = load_recipe(folder / "recipe.toml", resolve=False)
    except ValueError:
        if any(folder.glob("*.safetensors")):
            raise
        return
    before, now = config.write(found), config.write(recipe)
    free = ("evaluation", *(f"training.{name}" for name in FREE))
    if recipe.training.ends[-1:] == (found.training.epochs,) and recipe.training.ends[:-1] == found.training.ends:
        free += ("training.epochs", "training.ends")
    changed = [path for path in config.differences(before, now) if not path.startswith(free)]
    if changed:
        raise ValueError(
            f"{folder} holds a run with another {' and '.join(changed)}: give this one another --name, or delete "
            "that one"
        )

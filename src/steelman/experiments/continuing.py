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
    """The recipe with the `training.ends` of the run in the folder; of a finished one with fewer epochs, one more.

    As it is where anything else differs, or nothing can be read: `refuse_other` says what.
    """
    if not (folder / "log.jsonl").is_file() or recipe.training.ends:
        return recipe
    try:
        found = load_recipe(folder / "recipe.toml", resolve=False)
        done = json.loads((folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])["epoch"]
    except (ValueError, LookupError, TypeError):
        return recipe
    before, now = found.training, recipe.training
    if _changed(found, replace(recipe, training=replace(now, epochs=before.epochs, ends=before.ends))):
        return recipe
    if before.epochs == now.epochs:
        return replace(recipe, training=replace(now, ends=before.ends))
    if not 0 < before.epochs < now.epochs or done != before.epochs or now.iterations is not None:
        return recipe
    if processes().first:
        print(f"{folder} had ended after {before.epochs} epochs, and goes on", file=sys.stderr, flush=True)
    return replace(recipe, training=replace(now, ends=(*before.ends, before.epochs)))


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
    changed = _changed(found, recipe)
    if recipe.training.ends[-1:] == (found.training.epochs,) and recipe.training.ends[:-1] == found.training.ends:
        changed = [path for path in changed if path not in ("training.epochs", "training.ends")]
    if changed:
        raise ValueError(
            f"{folder} holds a run with another {' and '.join(changed)}: give this one another --name, or delete "
            "that one"
        )


def _changed(found: Recipe, recipe: Recipe) -> list[str]:
    """The settings in which two recipes differ, but for those that change only how a run is evaluated or written."""
    free = ("evaluation", *(f"training.{name}" for name in FREE))
    before, now = config.write(found), config.write(recipe)
    return [path for path in config.differences(before, now) if not path.startswith(free)]

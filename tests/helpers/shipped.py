"""The recipes that come with the package, each read once for all tests of them."""

from functools import cache
from pathlib import Path

import pytest

from steelman.experiments.recipe import Recipe, load_recipe
from steelman.experiments.recipe_file import SHIPPED

ALL = sorted({path.stem: path for folder in SHIPPED for path in folder.glob("*.toml")}.values())
group = pytest.mark.xdist_group("shipped recipes")
"""For tests of all of them: one process reads what all of these share."""


@cache
def shipped(path: Path) -> Recipe:
    return load_recipe(path)

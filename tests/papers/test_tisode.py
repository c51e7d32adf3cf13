"""TisODE's file: its reduced form is that of the small recipes, and what is not measured says why."""

import pytest
from tests.helpers.shipped import group

from steelman.experiments.recipe import load_recipe
from steelman.experiments.recipe_file import find_recipe
from steelman.networks.building import network_of
from steelman.papers.paper import load_paper

PAPER = load_paper("tisode")
COUNTS = {
    "cnn_mnist": (141_130, 11_530),
    "ode_mnist": (142_410, 11_850),
    "tisode_mnist": (141_130, 11_530),
    "cnn-fdn_mnist": (149_450, 12_074),
    "tisode-fdn_mnist": (149_450, 12_074),
}

pytestmark = group


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("scale", ["night", "hour"])
def test_the_reduced_form_is_that_of_the_small_recipes(name: str, scale: str) -> None:
    reduced = load_recipe(find_recipe(name), list(PAPER.reduced[scale].changes(name)))
    small = load_recipe(find_recipe(f"{name}_small"))
    assert (reduced.network, reduced.defence, reduced.training) == (small.network, small.defence, small.training)
    assert reduced.evaluation.attacks == small.evaluation.attacks


@pytest.mark.parametrize("name", COUNTS)
def test_recipes_have_the_sizes_of_the_paper_and_of_the_small_form(name: str) -> None:
    for each, count in zip((name, f"{name}_small"), COUNTS[name], strict=True):
        network = network_of(load_recipe(find_recipe(each)).network, (1, 28, 28), 10)
        assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_every_cell_is_made_by_a_recipe_or_says_why_it_is_not() -> None:
    for name, table in PAPER.tables.items():
        for row in table.rows:
            made = "MNIST" in name
            for cell in row.cells:
                assert (cell.network is not None) == made, (name, row.name)
                assert bool(cell.missing) != made, (name, row.name)

"""Jobs at a reduced scale: attacks with less than the paper's budget."""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from steelman import FGSM, CarliniWagner, DeepFool
from steelman.measures import Measure
from steelman.papers.jobs import Jobs
from steelman.papers.page import with_interval
from steelman.papers.paper import Evaluation, Network, Paper, Reduced, load_paper
from steelman.papers.results import _over_seeds
from steelman.papers.work import portions

CW = {"kind": "CarliniWagner", "c": 1.0}
EVALUATION = Evaluation("strong", {"attacks": {"CW": CW, "DeepFool": {"kind": "DeepFool"}}}, targets=True)
LESS = Reduced("20 steps", attacks=(("CarliniWagner", {"steps": 20}), ("FGSM", {"eps": 0.5})))


def jobs(reduced: Reduced, scale: str) -> Jobs:
    paper = Paper("p", "P", (), "", "", {}, {}, {"strong": EVALUATION}, {"night": reduced})
    return Jobs(paper, scale, 0, Path("runs"))  # pyright: ignore[reportArgumentType]


def test_a_scale_has_settings_of_its_own_for_attacks_of_a_class():
    whole = jobs(LESS, "paper").measured(Network("plain_digits_mlp"), EVALUATION)
    less = jobs(LESS, "night").measured(Network("plain_digits_mlp"), EVALUATION)
    assert whole.battery.attacks == {"CW": CarliniWagner(c=1.0), "DeepFool": DeepFool()}
    assert less.battery.attacks == {"CW": CarliniWagner(c=1.0, steps=20), "DeepFool": DeepFool()}
    assert (whole.reduced, less.reduced) == ("", "20 steps")
    assert whole.digest != less.digest
    assert less.name.endswith("-night")
    assert list(less.attacks(classes=3)) == [f"{name}, target +{k}" for name in ("CW", "DeepFool") for k in (1, 2)]


def test_a_scale_without_an_attack_of_that_class_changes_nothing():
    only = replace(LESS, attacks=LESS.attacks[1:])
    whole = jobs(only, "paper").measured(Network("plain_digits_mlp"), EVALUATION)
    assert jobs(only, "night").measured(Network("plain_digits_mlp"), EVALUATION) == whole
    other = replace(EVALUATION, settings={"attacks": {"FGSM": {"kind": "FGSM"}}})
    assert jobs(only, "night").measured(Network("plain_digits_mlp"), other).battery.attacks == {"FGSM": FGSM(eps=0.5)}


def test_an_attack_without_a_radius_is_run_at_confidences():
    settings = {"attacks": {"CW": CW, "FGSM": {"kind": "FGSM"}}}
    evaluation = Evaluation("transfer", settings, radii={"CW": [0.0, 2.5], "FGSM": [0.1]})
    found = jobs(LESS, "paper").measured(Network("plain_digits_mlp"), evaluation).attacks()
    weak, strong = CarliniWagner(c=1.0), CarliniWagner(c=1.0, confidence=2.5)
    assert found == {"CW 0": weak, "CW 2.5": strong, "FGSM .1": FGSM(eps=0.1)}


def test_a_setting_that_the_attack_lacks_is_refused_by_name():
    wrong = replace(LESS, attacks=(("CarliniWagner", {"stepz": 20}),))
    with pytest.raises(ValueError, match=r"scale\.night\.attacks\.CarliniWagner.*stepz.*steps"):
        jobs(wrong, "night").measured(Network("plain_digits_mlp"), EVALUATION)


@pytest.mark.parametrize(("size", "counts"), [(2, [2, 4, 5]), (5, [5]), (1, [1, 2, 3, 4, 5])])
def test_portions_grow_to_all_attacks_in_order(size: int, counts: list[int]):
    attacks = {name: DeepFool(steps=place + 1) for place, name in enumerate("abcde")}
    found = portions(attacks, size)
    assert [len(each) for each in found] == counts
    assert all(list(each) == list(attacks)[: len(each)] for each in found)
    assert found[-1] == attacks


def test_no_attacks_are_one_portion():
    """An evaluation may have probes alone."""
    assert portions({}, 0) == [{}]


def test_accuracies_that_are_printed_as_fractions_are_in_percent():
    """As ours are; norms beside them stay."""
    table = load_paper("pgn").tables["3"]
    fgm, _, deepfool, _ = table.rows[:4]
    assert [cell.printed for cell in fgm.cells] == [29.34, None, None, 49.79]
    assert [cell.printed for cell in deepfool.cells] == [None, 0.2129, 0.1844, 85.27]
    assert table.units == ("%", "L_2", "L_2", "%")


def test_a_column_has_the_recipe_of_its_row_else_its_own(tmp_path: Path):
    path = tmp_path / "small.toml"
    path.write_text("""
[paper]
title = "A small paper"
authors = []

[evaluation.one]

[table.1]
caption = ""
columns = ["a", "b"]
evaluation = "one"
column_recipes = ["plain", "tuned"]
measures = ["clean accuracy", "clean accuracy"]
extra_columns = [
  { name = "c", recipe = "longer", measure = "clean accuracy" },
  { name = "d", measure = "clean accuracy" },
]
rows = [{ name = "columns", values = [1, 2] }, { name = "row", values = [1, 2], recipe = "other" }]
""")
    columns, row = load_paper(str(path)).tables["1"].rows
    assert [cell.network and cell.network.recipe for cell in columns.cells] == ["plain", "tuned", "longer", None]
    assert [cell.network and cell.network.recipe for cell in row.cells] == ["other"] * 4


def test_an_interval_over_seeds_is_that_of_their_mean_and_of_the_images():
    """Student's t of 2 degrees of freedom is 4.3027 at .975."""
    values = (0.90, 0.92, 0.97)
    found = _over_seeds([Measure(each, each - 0.02, each + 0.03, 500) for each in values], "night", "")
    error = statistics.stdev(values) / 3**0.5
    assert (found.seeds, found.images, found.scale) == (3, 500, "paper")
    assert found.value == pytest.approx(0.93)
    assert found.value - found.low == pytest.approx(math.sqrt(0.02**2 + (4.3027 * error) ** 2), rel=1e-4)
    assert found.high - found.value == pytest.approx(math.sqrt(0.03**2 + (4.3027 * error) ** 2), rel=1e-4)
    alone = _over_seeds([Measure(0.9, 0.88, 0.93, 500)], "night", "fewer epochs")
    assert (alone.low, alone.high, alone.scale) == (pytest.approx(0.88), pytest.approx(0.93), "night")


def test_failures_are_counted_over_all_seeds():
    found = _over_seeds([Measure(1.0, 0.9, 1.1, 20, "length", failures) for failures in (0, 2, 3)], "paper", "")
    assert found.failures == 5
    assert with_interval(found).endswith("5 failed in 3 seeds")
    assert with_interval(_over_seeds([Measure(1.0, 0.9, 1.1, 20, "length", 2)], "paper", "")).endswith(", 2 failed")

"""Sizes of perturbations, and what probes measured, against naive loops and the formulas of papers and codes."""

import math

import numpy as np
import pytest

from made_up import RUN, Row, changed, made_up, of, right, table_of
from steelman.attacks import DDN, EOT, PGD, CarliniWagner, IgnoringFilter, MinimalFGSM, WorstOf
from steelman.measures import (
    accuracy,
    clean_accuracy,
    clever,
    empirical_robustness,
    l_2,
    mean_margin,
    mean_norm,
    measures,
    median_norm,
    probed,
    rho_2,
    rho_cw,
    rho_inf,
    smallest_norms,
    training_set_distance,
    unmeasured,
)
from steelman.measures.measure import plain
from steelman.norms import L2, Linf

ROWS = made_up()
CLEVER = "CLEVER(norm=Linf)"
TABLE = table_of(ROWS)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_rho_2_and_l_2_are_over_all_images():
    rows = of(ROWS, "away")
    assert rho_2(TABLE).value == pytest.approx(mean([row["l2"] / row["x_l2"] for row in rows]))
    assert l_2(TABLE, "away").value == pytest.approx(mean([row["l2"] for row in rows]))
    assert rho_2(TABLE).count == 41
    assert rho_2(TABLE).failures == sum(not row["success"] for row in rows) > 0


def test_rho_inf_counts_failures_with_the_largest_radius_tried():
    def expected(cap: float) -> float:
        return mean([(row["linf"] if row["success"] else cap) / row["x_linf"] for row in of(ROWS, "grid")])

    failures = sum(not row["success"] for row in of(ROWS, "grid"))
    assert (rho_inf(TABLE).failures, rho_inf(TABLE).count) == (failures, 41)
    assert rho_inf(TABLE).value == pytest.approx(expected(1.5))  # the attack's own eps_max
    assert rho_inf(TABLE, cap=0.25).value == pytest.approx(expected(0.25))
    without = table_of(changed(ROWS, "grid", run="SearchLinf(steps=3)"))
    assert without.record("grid").setting("eps_max") is None
    with pytest.raises(ValueError, match=f"grid failed on {failures} images; give cap"):
        rho_inf(without)
    assert rho_inf(without, cap=1.5) == rho_inf(TABLE)
    done = table_of(changed(ROWS, "grid", run="SearchLinf(steps=3)", success=True))
    assert rho_inf(done).value == pytest.approx(mean([row["linf"] / row["x_linf"] for row in of(ROWS, "grid")]))


@pytest.mark.parametrize("around", [lambda it: EOT(it, samples=2), lambda it: WorstOf((PGD(), it)), lambda it: it])
def test_the_largest_radius_tried_and_the_kind_of_an_attack_are_known_from_inside_others(around):
    grid = MinimalFGSM(norm=Linf, eps_max=0.75, grid=None)
    assert rho_inf(table_of(changed(ROWS, "grid", run=around(grid)))) == rho_inf(TABLE, cap=0.75)
    inside = table_of(changed(ROWS, "nearest", run=around(RUN["nearest"])))
    if inside.record("nearest").core == "CarliniWagner":
        assert rho_cw(inside) == rho_cw(TABLE)
    else:  # a worst case is no Carlini and Wagner
        with pytest.raises(ValueError, match=r"rho_cw is of CarliniWagner\(\); the table has none"):
            rho_cw(inside)


def arts_formula(rows: list[Row], size: str, whole: str) -> float:
    """ART's `empirical_robustness`: predictions before and after, norms of what was fooled, their ratio's mean."""
    before, after = (np.array([row[key] for row in rows]) for key in ("clean_prediction", "prediction"))
    fooled = before != after
    sizes, wholes = (np.array([row[key] for row in rows])[fooled] for key in (size, whole))
    return float(np.mean(sizes / wholes))


def test_empirical_robustness_in_both_forms():
    for name in ("nearest", "away", "grid", "weak"):
        rows = of(ROWS, name)
        left = sum(row["prediction"] == row["clean_prediction"] for row in rows)
        paper = empirical_robustness(TABLE, name)
        assert paper.value == pytest.approx(mean([row["l2"] / (row["x_l2"] + 1e-12) for row in rows]))
        assert (paper.count, paper.failures, paper.kind) == (41, left, "ratio")
        code = empirical_robustness(TABLE, name, "code")
        sizes = ("linf", "x_linf") if name in ("grid", "weak") else ("l2", "x_l2")
        assert code.value == pytest.approx(arts_formula(rows, *sizes))
        assert (code.count, code.failures) == (41, left)
        assert code.value != pytest.approx(paper.value)
    assert empirical_robustness(TABLE, "away") == rho_2(TABLE)
    jsma = table_of(changed(ROWS, "nearest", norm="L0"))
    assert empirical_robustness(jsma, "nearest", "code") == empirical_robustness(TABLE, "nearest", "code")
    with pytest.raises(ValueError, match=r'L1 norm, and the table has no .x._1; form="paper" is in L2'):
        empirical_robustness(table_of(changed(ROWS, "nearest", norm="L1")), "nearest", "code")
    with pytest.raises(ValueError, match="changed no prediction"):
        empirical_robustness(
            table_of(changed(ROWS, "away", prediction=lambda row: row["clean_prediction"])), "away", "code"
        )
    right_only = [row for row in ROWS if row["attack"] != "weak" or row["clean_prediction"] == row["label"]]
    with pytest.raises(ValueError, match=r"weak was run on \d+ of 41 images, and this is of all"):
        empirical_robustness(table_of(right_only), "weak")


@pytest.mark.parametrize("around", [IgnoringFilter, lambda it: it])
def test_both_forms_of_table_2_are_among_the_measures_of_its_attack_alone(around, with_probes):
    rows = changed(with_probes, "nearest", run=around(MinimalFGSM(grid=0.05)), norm="Linf")
    table, name = table_of(rows), "nearest"
    found = measures(table)
    assert found["accuracy, nearest"] == accuracy(table, name)
    assert found["empirical robustness, nearest"] == empirical_robustness(table, name)
    assert found["empirical robustness (code), nearest"] == empirical_robustness(table, name, "code")
    assert found["TrainingSetDistance, nearest"] == training_set_distance(table, name)
    assert found["TrainingSetDistance (code), nearest"] == training_set_distance(table, name, "code")
    assert found["TrainingSetDistance, nearest"].value != found["TrainingSetDistance (code), nearest"].value
    others = measures(table_of(changed(with_probes, "grid", run=CarliniWagner())))
    assert "TrainingSetDistance, nearest" in others
    assert not [label for label in others if "(code)" in label or label == "accuracy, nearest"]


def test_mean_norm_is_over_successes_and_median_norm_over_all_that_were_attacked():
    attacked = [row for row in of(ROWS, "nearest") if row["clean_prediction"] == row["label"]]
    sizes = sorted(row["l2"] if row["success"] else math.inf for row in attacked)
    won = [size for size in sizes if size < math.inf]
    found, median = mean_norm(TABLE, "nearest"), median_norm(TABLE, "nearest")
    assert found.value == pytest.approx(mean(won))
    assert (found.count, found.failures) == (len(attacked), len(attacked) - len(won))
    assert median.value == np.median(sizes)
    assert (median.count, median.failures) == (found.count, found.failures)
    assert 0 < found.failures < found.count
    assert mean_norm(TABLE, "nearest", Linf).value == pytest.approx(found.value / 2)
    assert mean_norm(TABLE, "away").count == 41


def test_rho_cw_counts_natural_errors_as_successes_of_size_0():
    wrong = [row for row in of(ROWS, "nearest") if row["clean_prediction"] != row["label"]]
    sizes = sorted(0.0 if row in wrong else row["l2"] if row["success"] else math.inf for row in of(ROWS, "nearest"))
    won = [size for size in sizes if size < math.inf]
    found = rho_cw(TABLE)
    assert found.value == pytest.approx(mean(won))
    assert found.value < mean_norm(TABLE, "nearest").value
    assert (found.count, found.failures) == (41, 41 - len(won))
    assert rho_cw(TABLE, statistic="median").value == np.median(sizes)
    moved = [row | ({"success": False, "l2": 9.0} if row in wrong[:1] else {}) for row in ROWS]
    assert rho_cw(table_of(moved), "nearest").value == pytest.approx(found.value)


def test_natural_errors_alone_are_no_robustness():
    """Their size is 0, which would read as no robustness at all where the attack broke nothing."""
    rows = changed(ROWS, "nearest", success=False)
    with pytest.raises(ValueError, match=r"nearest succeeded on none of \d+ images that are right"):
        rho_cw(table_of(rows))
    assert rho_cw(table_of(rows), statistic="median").value == math.inf


def test_rho_cw_is_the_area_under_accuracy_against_norm_where_nothing_failed():
    table = table_of(changed(ROWS, "nearest", success=True, prediction=lambda row: (row["label"] + 1) % 3))
    smallest = smallest_norms(table, L2, ["nearest"])
    radii = np.linspace(0, 1, 200_001)
    area = np.mean(np.searchsorted(np.sort(smallest), radii, side="right") / -41 + 1)
    assert rho_cw(table).value == pytest.approx(area, abs=1e-5)


def test_the_median_is_infinite_when_most_attacks_fail():
    rows = changed(ROWS, "nearest", success=lambda row: row["success"] and row["image"] % 4 == 0)
    median = median_norm(table_of(rows), "nearest")
    assert (median.value, median.high) == (math.inf, math.inf)
    assert plain(measures(table_of(rows)))["median L2, nearest"]["value"] is None


def test_the_mean_margin_counts_what_is_further_and_what_failed_as_the_most():
    smallest = smallest_norms(TABLE, L2, ["nearest"])
    margin = mean_margin(TABLE, L2, 0.4, ["nearest"])
    assert margin.value == pytest.approx(mean([min(size, 0.4) for size in smallest]))
    assert (margin.count, margin.failures) == (41, sum(size == math.inf for size in smallest))
    assert any(0.4 < size < math.inf for size in smallest)
    assert mean_margin(TABLE, L2, 0.1, ["nearest"]).value < margin.value


def test_distances_refuse_attacks_that_they_are_not_of():
    with pytest.raises(ValueError, match=r'nearest left the label; .* need it with reference="prediction"'):
        rho_2(TABLE, "nearest")
    with pytest.raises(ValueError, match=r'of DeepFool\(\), with reference="prediction"; the table has none'):
        rho_2(table_of(made_up(attacks=("clean", "weak"))))
    with pytest.raises(ValueError, match="away left the prediction; rho_cw needs"):
        rho_cw(TABLE, "away")
    with pytest.raises(ValueError, match=r"rho_cw is of CarliniWagner\(\); the table has none"):
        rho_cw(table_of(changed(ROWS, "nearest", run=DDN())))
    with pytest.raises(ValueError, match="cap is a size of perturbations, above 0; got 0"):
        rho_inf(TABLE, cap=0.0)
    with pytest.raises(ValueError, match="at_most is the largest distance that counts, above 0; got nan"):
        mean_margin(TABLE, L2, math.nan)
    again = [row | {"attack": "again"} for row in of(ROWS, "away")]
    with pytest.raises(ValueError, match=r"name one of away, again|name one of again, away"):
        rho_2(table_of(ROWS + again))


def test_a_model_that_is_never_right_has_accuracies_and_no_norms():
    table = table_of(changed(ROWS, clean_prediction=lambda row: (row["label"] + 1) % 3))
    assert clean_accuracy(table).value == accuracy(table, "weak").value == rho_cw(table).value == 0.0
    with pytest.raises(ValueError, match="no image is right unattacked, so nearest had none to attack"):
        mean_norm(table, "nearest")
    assert {"mean L2, nearest", "median L2, nearest"} <= set(unmeasured(table))
    assert measures(table)["robust accuracy, Linf 0.1"].value == 0.0


def test_attacks_that_find_nothing_have_no_mean_and_an_infinite_median():
    """A constant model, which gradients cannot move, and one class."""
    rows = changed(ROWS, label=0, clean_prediction=0, prediction=0, success=False)
    rows = [row | dict.fromkeys(("l1", "l2", "linf"), 0.0) for row in rows]
    table = table_of(rows)
    with pytest.raises(ValueError, match="nearest succeeded on none of 41 images"):
        mean_norm(table, "nearest")
    assert {"mean L2, nearest", "rho_cw, nearest"} <= set(unmeasured(table))
    assert median_norm(table, "nearest").value == math.inf
    for measure in (rho_2, l_2):
        with pytest.raises(ValueError, match="away succeeded on none of 41 images"):
            measure(table)
    for form in ("paper", "code"):
        with pytest.raises(ValueError, match="nearest changed no prediction"):
            empirical_robustness(table, "nearest", form)
    assert measures(table)["clean accuracy"].value == measures(table)["robust accuracy, Linf 0.1"].value == 1.0


@pytest.mark.parametrize("size", [math.nan, math.inf])
def test_sizes_that_are_not_finite_are_said_and_not_averaged(size):
    def one(row: Row) -> float:
        return size if row["image"] == 5 else row["l2"]

    table = table_of(changed(changed(ROWS, "away", l2=one), "nearest", l2=one))
    for measure in (rho_2, l_2, rho_cw):
        with pytest.raises(ValueError, match=r"the L2 size of .* is not finite for 1 images"):
            measure(table)
    assert {"rho_2, away", "mean L2, nearest", "rho_cw, nearest", "empirical robustness, nearest"} <= set(
        unmeasured(table)
    )
    assert measures(table)["accuracy, weak"] == accuracy(TABLE, "weak")
    known = smallest_norms(table, L2, ["weak", "away"])
    np.testing.assert_array_equal(np.delete(known, 5), np.delete(smallest_norms(TABLE, L2, ["weak", "away"]), 5))
    assert known[5] == smallest_norms(TABLE, L2, ["weak"])[5]  # an image that overflowed is no perturbation


@pytest.fixture(scope="module")
def with_probes() -> list[Row]:
    rng = np.random.default_rng(4)
    columns = {"TrainingSetDistance()": "nearest", "LossSensitivity()": "clean", CLEVER: "clean"}

    def measured(row: Row) -> Row:
        return row | {name: rng.random() if row["attack"] == of else math.nan for name, of in columns.items()}

    return [measured(row) for row in ROWS]


def test_probes_are_averaged_where_they_measured(with_probes):
    table = table_of(with_probes)
    steep = mean([row["LossSensitivity()"] for row in of(with_probes, "clean")])
    away = mean([row["TrainingSetDistance()"] for row in of(with_probes, "nearest")])
    assert probed(table, "LossSensitivity").value == probed(table, "LossSensitivity()").value == pytest.approx(steep)
    assert probed(table, "TrainingSetDistance()", "nearest").value == pytest.approx(away)
    found = measures(table)
    assert set(found) - set(measures(TABLE)) == {"LossSensitivity", "TrainingSetDistance, nearest", CLEVER}
    sure = [row[CLEVER] for row in of(with_probes, "clean") if right(row)]
    assert found[CLEVER].value == clever(table).value == pytest.approx(mean(sure))
    assert clever(table).count == len(sure) < 41
    none = changed(with_probes, clean_prediction=lambda row: (row["label"] + 1) % 3)
    assert "has no number of these images of clean" in unmeasured(table_of(none))[CLEVER]
    assert found["LossSensitivity"] == probed(table, "LossSensitivity")
    some = table_of(
        changed(with_probes, "clean", **{"LossSensitivity()": lambda row: [math.nan, 2.0][row["image"] % 2]})
    )
    assert (probed(some, "LossSensitivity").value, probed(some, "LossSensitivity").count) == (2.0, 20)
    with pytest.raises(
        ValueError, match=r"TrainingSetDistance\(\) has no number of .* clean; it was measured on those of nearest"
    ):
        probed(table, "TrainingSetDistance")
    with pytest.raises(ValueError, match=r"no column of probe 'PASS'; the table has TrainingSetDistance\(\), Loss"):
        probed(table, "PASS", "nearest")
    endless = table_of(changed(with_probes, "clean", **{"LossSensitivity()": math.inf}))
    assert "is infinite for 41 images of clean" in unmeasured(endless)["LossSensitivity"]


def test_the_distance_to_the_training_set_in_both_forms(with_probes):
    table, rows = table_of(with_probes), of(with_probes, "nearest")
    paper, code = training_set_distance(table, "nearest"), training_set_distance(table, "nearest", "code")
    assert paper.value == pytest.approx(mean([row["TrainingSetDistance()"] for row in rows]))
    fooled = [row for row in rows if row["prediction"] != row["clean_prediction"]]
    assert code.value == pytest.approx(mean([row["TrainingSetDistance()"] ** 2 / row["x_l2"] for row in fooled]))
    assert (code.count, code.failures) == (41, 41 - len(fooled))
    assert any(not right(row) for row in rows if row not in fooled), "natural errors are not fooled"
    still = table_of(changed(with_probes, "nearest", prediction=lambda row: row["clean_prediction"]))
    with pytest.raises(ValueError, match="nearest changed no prediction"):
        training_set_distance(still, "nearest", "code")
    with pytest.raises(ValueError, match=r"TrainingSetDistance\(\); the table has none"):
        training_set_distance(TABLE, "nearest")

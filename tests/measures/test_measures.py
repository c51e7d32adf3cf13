"""Shares, intervals and summaries against naive loops over the table's rows, and formulas written out here."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from made_up import cascade, changed, made_up, of, record, right, table_of
from steelman.attacks import FGSM, DeepFool
from steelman.evaluation import evaluate
from steelman.measures import (
    accuracy,
    average_accuracy,
    clean_accuracy,
    mean_norm,
    measures,
    median_norm,
    minimum,
    paired,
    rho_2,
    rho_cw,
    robust_accuracy,
    smallest_norms,
    success_rate,
    unmeasured,
    worst_case,
)
from steelman.measures.accuracies import still_correct, threats
from steelman.measures.measure import from_plain, plain, share
from steelman.norms import L2, Linf
from steelman.table import Evaluation

ROWS = made_up()
TABLE = table_of(ROWS)
BOUNDED = ["weak", "strong", "small"]
ORDER = ["nearest", "weak", "small", "away", "grid", "strong"]


def is_robust(rows: list[dict], norm: str, eps: float, names: list[str]) -> list[bool]:
    """By image, whether nothing that is misclassified lies within `eps`."""
    return [
        right(clean)
        and not any(
            row["prediction"] != row["label"] and row[norm] <= eps * (1 + 1e-5)
            for row in rows
            if row["image"] == clean["image"] and row["attack"] in names
        )
        for clean in of(rows, "clean")
    ]


def test_accuracies_count_images_that_are_right_before_and_after():
    assert clean_accuracy(TABLE).value == sum(right(row) for row in of(ROWS, "clean")) / 41
    for name in ORDER:
        assert accuracy(TABLE, name).value == sum(right(row) for row in of(ROWS, name)) / 41
        assert success_rate(TABLE, name).value == pytest.approx(1 - accuracy(TABLE, name).value)
    healed = [row for row in of(ROWS, "away") if row["prediction"] == row["label"] != row["clean_prediction"]]
    assert healed, "an attack that leaves a wrong prediction may find the label: no credit for that"


def test_worst_case_is_by_image_and_min_by_column():
    images = [[of(ROWS, name)[image] for name in BOUNDED] for image in range(41)]
    together = sum(all(right(row) for row in rows) for rows in images) / 41
    columns = [sum(right(row) for row in of(ROWS, name)) / 41 for name in BOUNDED]
    assert worst_case(TABLE).value == together
    assert minimum(TABLE).value == min(columns)
    assert together < min(columns), "the example has to tell the two apart"
    pair = sum(all(right(row) for row in rows[:2]) for rows in images) / 41
    assert worst_case(TABLE, ["weak", "strong"]).value == pair


@pytest.mark.parametrize("names", [None, ["nearest"], ["weak", "away"]])
def test_robust_accuracy_counts_everything_that_came_within_the_radius(names):
    for norm in (L2, Linf):
        for eps in (0.0, 0.04, 0.1, 0.3, 2.0):
            expected = is_robust(ROWS, repr(norm).lower(), eps, ORDER if names is None else names)
            assert robust_accuracy(TABLE, norm, eps, names).value == sum(expected) / 41
            assert still_correct(TABLE, norm, eps, names).tolist() == expected


def test_a_perturbation_of_exactly_the_radius_is_within_it():
    byte = (np.arange(256) / 255).astype(np.float32).astype(float)
    longest = max(byte[level + 1] - byte[level] for level in range(255))
    assert longest > 1 / 255, "the rounding of float32 has to make the difference of two bytes longer than one of them"
    rows = changed(made_up(attacks=("clean", "weak")), "weak", linf=longest, eps=1 / 255)
    assert robust_accuracy(table_of(rows), Linf, 1 / 255) == accuracy(table_of(rows), "weak")


def test_averages_over_radii_are_mmas():
    rows = ROWS + [row | {"attack": f"at {eps}", "eps": eps} for eps in (0.025, 0.075) for row in of(ROWS, "small")]
    table = table_of(rows)
    names = sorted({row["attack"] for row in rows} - {"clean"})
    at = {eps: sum(is_robust(rows, "linf", eps, names)) / 41 for eps in (0.025, 0.05, 0.075, 0.1)}
    clean = clean_accuracy(table).value
    assert average_accuracy(table, Linf, clean=False).value == pytest.approx(sum(at.values()) / 4)
    assert average_accuracy(table, Linf).value == pytest.approx((clean + sum(at.values())) / 5)
    assert average_accuracy(table, Linf, [0.025, 0.1], clean=False).value == pytest.approx((at[0.025] + at[0.1]) / 2)
    assert measures(table)["AvgAcc, Linf, 4 radii to 0.1"] == average_accuracy(table, Linf)
    assert measures(table)["AvgRobAcc, Linf, 4 radii to 0.1"] == average_accuracy(table, Linf, clean=False)
    # Radii that are no steps of one length, such as those of the signs, are averaged over by nobody who does not ask.
    uneven = table_of(rows + [row | {"attack": "far", "eps": 0.4} for row in of(ROWS, "small")])
    assert not any(name.startswith("Avg") for name in measures(uneven))
    with pytest.raises(ValueError, match="bounded attacks in L2; the table has none"):
        average_accuracy(table, L2)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 10))
def test_the_worst_case_is_at_most_min_is_at_most_every_accuracy(seed, count):
    rows = made_up(count, seed)
    table, left = table_of(rows), table_of(cascade(rows, ORDER))
    for (_, eps), names in threats(table).items():
        robust, worst = robust_accuracy(table, Linf, eps).value, worst_case(table, names).value
        assert robust <= worst <= minimum(table, names).value <= min(accuracy(table, name).value for name in names)
        skipped = robust_accuracy(left, Linf, eps).value  # rows of a larger radius might have come as near by chance
        assert robust <= skipped if eps < 0.1 else robust == skipped


def test_a_table_without_the_rows_of_broken_images_gives_the_same_worst_case():
    rows = cascade(ROWS, ORDER)
    table = table_of(rows)
    assert len(rows) < len(ROWS)
    assert robust_accuracy(table, Linf, 0.1) == robust_accuracy(TABLE, Linf, 0.1)
    assert worst_case(table, ["weak", "strong"]).value == sum(is_robust(rows, "linf", 0.1, ORDER)) / 41
    assert accuracy(table, "nearest") == accuracy(TABLE, "nearest")  # natural errors need no row
    met, could = len(of(rows, "strong")), sum(right(row) for row in of(ROWS, "clean"))
    with pytest.raises(ValueError, match=rf"strong was run on {met} of the {could} images that are right unattacked"):
        accuracy(table, "strong")
    with pytest.raises(ValueError, match="no numbers of its own"):
        minimum(table)
    found = measures(table)
    assert "robust accuracy, Linf 0.1" in found
    assert not {"accuracy, strong", "Min, Linf 0.1"} & set(found)
    assert "no numbers of its own" in unmeasured(table)["accuracy, strong"]
    for measure in (mean_norm, median_norm, rho_cw):
        assert measure(table, "nearest") == measure(TABLE, "nearest")
    assert rho_cw(table, "nearest", "median") == rho_cw(TABLE, "nearest", "median")
    assert rho_2(table) == rho_2(TABLE)


def test_images_that_an_attack_skipped_count_as_another_attack_left_them():
    rows = cascade(ROWS, ORDER)
    table, remaining = table_of(rows), sum(right(row) for row in of(rows, "strong")) / 41
    assert worst_case(table, ["strong"]).value == robust_accuracy(table, Linf, 0.1, ["strong"]).value == remaining
    strong_attacked = {row["image"]: row for row in of(rows, "strong")}
    expected = []
    for clean in of(rows, "clean"):
        mine = [row for row in rows if row["image"] == clean["image"] and row["attack"] != "clean"]
        if right(clean) and clean["image"] in strong_attacked:
            mine = [strong_attacked[clean["image"]]]
        found = [row["linf"] for row in mine if row["prediction"] != row["label"]]
        expected.append(min(found, default=math.inf) if right(clean) else 0.0)
    np.testing.assert_array_equal(smallest_norms(table, Linf, ["strong"]), expected)


def test_attacks_that_found_no_image_left_are_counted_with_those_that_did():
    """Where the first attack broke every image, the later ones have no row at all: the accuracy is 0."""
    rows = cascade(changed(ROWS, "nearest", prediction=lambda row: (row["label"] + 1) % 3, linf=0.01), ORDER)
    assert {row["attack"] for row in rows} == {"clean", "nearest", "away", "grid"}
    skipped = [record(of(ROWS, name)[0], asked="survivors") for name in ("weak", "strong")]
    table = table_of(rows, records=skipped)
    assert table.without_rows == ("weak", "strong")
    assert [(each.norm, each.eps) for each in map(table.record, table.without_rows)] == [("Linf", 0.1)] * 2
    assert threats(table) == {("Linf", 0.1): ["weak", "strong"]}
    assert list(table.attacks) == ["nearest", "away", "grid", "weak", "strong"]
    assert measures(table)["robust accuracy, Linf 0.1"].value == worst_case(table).value == 0.0
    assert "run on 0 of the" in unmeasured(table)["accuracy, weak"]
    found = paired(TABLE, table, (Linf, 0.1))
    assert (found.ours, found.theirs.value) == (robust_accuracy(TABLE, Linf, 0.1, [*ORDER[:2], *ORDER[3:]]), 0.0)
    assert table.only("nearest").without_rows == ()
    both = table + table_of(of(ROWS, "clean") + of(ROWS, "weak"))
    assert (both.without_rows, accuracy(both, "weak")) == (("strong",), accuracy(TABLE, "weak"))
    with pytest.raises(ValueError, match="strong was not run on"):
        robust_accuracy(table_of(cascade(ROWS, ["nearest"]), records=skipped), Linf, 0.1, ["strong"])


def test_a_table_says_which_attacks_found_no_image_left(tmp_path):
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Flatten()
    data, first = (x, model(x).argmax(1)), {"DeepFool": DeepFool(), "FGSM": FGSM(eps=1.0)}
    table = evaluate(model, data, first, survivors_only=True, progress=False)
    assert (table.attacks, table.without_rows) == (("DeepFool", "FGSM"), ("FGSM",))
    table.save(tmp_path / "table.parquet")
    loaded = Evaluation.load(tmp_path / "table.parquet")
    assert loaded.without_rows == ("FGSM",)
    assert loaded.record("FGSM") == table.record("FGSM")
    assert (loaded.record("FGSM").norm, loaded.record("FGSM").eps, loaded.record("FGSM").asked) == (
        "Linf",
        1.0,
        "survivors",
    )
    assert measures(loaded)["robust accuracy, Linf 1"].value == 0.0
    further = evaluate(model, data, {"more": FGSM(eps=0.9)}, survivors_only=True, progress=False, known=loaded)
    assert set(further.without_rows) == {"FGSM", "more"}
    whole = evaluate(model, data, {"FGSM": FGSM(eps=1.0)}, progress=False, known=further)
    assert (whole.without_rows, accuracy(whole, "FGSM").count) == (("more",), 6)


def test_an_image_without_a_row_must_have_fallen():
    rows = cascade(ROWS, ORDER)
    never_broken = next(row for row in of(rows, "strong") if right(row))
    without = table_of([row for row in rows if row is not never_broken])
    message = rf"strong was not run on 1 images .* within Linf 0.1 \(image {never_broken['image']}\)"
    for ask in (
        lambda: worst_case(without, ["strong"]),
        lambda: robust_accuracy(without, Linf, 0.1),
        lambda: smallest_norms(without, Linf),
    ):
        with pytest.raises(ValueError, match=message):
            ask()
    lost = next(row for row in of(rows, "nearest") if right(row))
    with pytest.raises(ValueError, match="nearest was run on"):  # a minimal attack may skip natural errors alone
        robust_accuracy(table_of([row for row in rows if row is not lost]), L2, 0.5)
    assert worst_case(table_of(rows), ["strong"]).value <= worst_case(TABLE, ["strong"]).value


@pytest.mark.parametrize("norm", [L2, Linf])
@pytest.mark.parametrize("names", [None, ["nearest"], ["weak", "away"]])
def test_the_smallest_norm_of_an_image_is_over_everything_that_broke_it(norm, names):
    expected = naive_smallest(repr(norm).lower(), ORDER if names is None else names)
    np.testing.assert_array_equal(smallest_norms(TABLE, norm, names), expected)


def naive_smallest(norm: str, names: list[str]) -> list[float]:
    smallest = []
    for image, clean in enumerate(of(ROWS, "clean")):
        rows = [of(ROWS, name)[image] for name in names]
        found = [row[norm] for row in rows if row["prediction"] != row["label"]]
        smallest.append(0.0 if not right(clean) else min(found, default=math.inf))
    return smallest


@pytest.mark.parametrize(("won", "count"), [(0, 7), (7, 7), (3, 10), (4981, 10_000)])
def test_intervals_of_shares_are_wilsons(won, count):
    z, p = stats.norm.ppf(0.975), won / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    found = share(np.arange(count) < won)
    assert (found.value, found.count) == (p, count)
    assert found.low == pytest.approx(middle - reach, abs=1e-12)
    assert found.high == pytest.approx(middle + reach, abs=1e-12)


def test_the_order_of_the_rows_does_not_matter():
    assert measures(table_of(ROWS[::-1])) == measures(TABLE)


def test_measures_as_plain_values_are_json():
    found = plain(measures(TABLE))
    assert set(found) == {
        "clean accuracy",
        *(f"accuracy, {name}" for name in BOUNDED),
        "robust accuracy, Linf 0.1",
        "robust accuracy, Linf 0.05",
        "Min, Linf 0.1",
        *(
            f"{kind}, nearest"
            for kind in ("success", "mean L2", "median L2", "rho_cw", "median rho_cw", "empirical robustness")
        ),
        *(f"{kind}, away" for kind in ("rho_2", "l_2")),
        *(
            f"{kind}, grid"
            for kind in ("accuracy", "rho_inf", "mean Linf", "empirical robustness", "empirical robustness (code)")
        ),
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {name: from_plain(each) for name, each in found.items()} == measures(TABLE)
    assert found["robust accuracy, Linf 0.1"]["value"] == robust_accuracy(TABLE, Linf, 0.1).value
    for name, measure in found.items():
        low, value, high = (math.inf if measure[key] is None else measure[key] for key in ("low", "value", "high"))
        assert low <= value <= high, name
    assert unmeasured(TABLE) == {}


def test_two_spaces_are_summed_up_apart_and_not_mixed():
    behind = table_of(made_up(seed=1, attacks=("clean", "away")), space="preprocessed")
    found = measures(TABLE, behind)
    assert {"rho_2, away", "rho_2, away (preprocessed)", "clean accuracy (preprocessed)"} <= set(found)
    assert found == measures(TABLE) | measures(behind)
    assert found["rho_2, away"].value == rho_2(TABLE).value
    assert found["rho_2, away (preprocessed)"].value == rho_2(behind).value != rho_2(TABLE).value
    with pytest.raises(ValueError, match="one table is in pixels and the other in preprocessed; a table has one space"):
        TABLE + behind
    skipped = table_of(cascade(made_up(), ORDER), space="preprocessed")
    assert "accuracy, strong (preprocessed)" in unmeasured(TABLE, skipped)
    assert "accuracy, strong" not in unmeasured(TABLE, skipped)


def test_measures_refuse_what_they_cannot_mean():
    with pytest.raises(ValueError, match="at least one bounded attack"):
        worst_case(table_of(made_up(attacks=("clean", "away"))))
    with pytest.raises(ValueError, match="at least one bounded attack"):
        minimum(table_of(made_up(attacks=("clean", "away"))))
    with pytest.raises(ValueError, match=r"no rows of attack 'strnog'; did you mean strong\?"):
        accuracy(TABLE, "strnog")
    with pytest.raises(ValueError, match=r"eps is a radius, at least 0; got -0\.1"):
        robust_accuracy(TABLE, L2, -0.1)
    with pytest.raises(ValueError, match="at least one image"):
        share(np.zeros(0, dtype=bool))

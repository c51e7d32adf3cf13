"""Measures against naive loops over the table's rows, and intervals against formulas written out here."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from steelman.evaluation import (
    Evaluation,
    accuracy,
    clean_accuracy,
    curve,
    l_2,
    mean_margin,
    mean_norm,
    measures,
    median_norm,
    minimum,
    rho_2,
    rho_cw,
    robust_accuracy,
    smallest_norms,
    summary,
    worst_case,
)
from steelman.evaluation.measures import bootstrap, share
from steelman.norms import L2, Linf

ATTACKS = {  # name: (norm, eps, what it leaves)
    "clean": (None, 0.0, "label"),
    "weak": ("Linf", 0.1, "label"),
    "strong": ("Linf", 0.1, "label"),
    "small": ("Linf", 0.05, "label"),
    "nearest": ("L2", math.nan, "label"),
    "away": ("L2", math.nan, "prediction"),
}


def made_up(count: int = 41, seed: int = 0, attacks=tuple(ATTACKS), space: str = "pixels") -> list[dict]:
    """Rows with wrong images, failures and attacks that break different images, in no order."""
    rng = np.random.default_rng(seed)
    label, clean = rng.integers(3, size=count), rng.integers(3, size=count)
    clean = np.where(rng.random(count) < 0.6, label, clean)
    x_l2 = 1 + rng.random(count)
    rows = []
    for name in attacks:
        norm, eps, away_from = ATTACKS[name]
        for image in range(count):
            leave = label[image] if away_from == "label" else clean[image]
            broken = name != "clean" and rng.random() < 0.6
            prediction = (leave + 1) % 3 if broken else clean[image]
            size = 0.0 if name == "clean" else rng.random()
            if name == "nearest" and clean[image] != label[image]:
                prediction, size = clean[image], 0.0
            rows.append(
                {"image": image, "attack": name, "space": space, "parameters": "", "away_from": away_from}
                | {"norm": norm, "eps": eps, "label": label[image], "clean_prediction": clean[image]}
                | {"prediction": prediction, "success": bool(prediction != leave), "l0": 5.0, "l1": 3 * size}
                | {"l2": size, "linf": min(size, 0.1) if norm == "Linf" else size / 2, "x_l2": x_l2[image]}
                | {"x_linf": 1.0, "loss": 1.0, "forwards": 1, "gradients": 1, "seconds": 0.1}
            )
    rng.shuffle(rows)
    return rows


def table_of(rows: list[dict]) -> Evaluation:
    return Evaluation.from_columns({name: [row[name] for row in rows] for name in rows[0]})


ROWS = made_up()
TABLE = table_of(ROWS)


def of(attack: str) -> list[dict]:
    return sorted((row for row in ROWS if row["attack"] == attack), key=lambda row: row["image"])


def right(row: dict) -> bool:
    return bool(row["clean_prediction"] == row["label"] == row["prediction"])


def test_accuracies_count_images_that_are_right_before_and_after():
    assert clean_accuracy(TABLE).value == sum(right(row) for row in of("clean")) / 41
    for name in ("weak", "strong", "small", "nearest", "away"):
        assert accuracy(TABLE, name).value == sum(right(row) for row in of(name)) / 41
    healed = [row for row in of("away") if row["prediction"] == row["label"] != row["clean_prediction"]]
    assert healed, "an attack that leaves a wrong prediction may find the label: no credit for that"


def test_worst_case_is_by_image_and_min_by_column():
    images = [[of(name)[image] for name in ("weak", "strong", "small")] for image in range(41)]
    together = sum(all(right(row) for row in rows) for rows in images) / 41
    columns = [sum(right(row) for row in of(name)) / 41 for name in ("weak", "strong", "small")]
    assert worst_case(TABLE).value == together
    assert minimum(TABLE).value == min(columns)
    assert together < min(columns), "the example has to tell the two apart"
    pair = sum(all(right(row) for row in rows[:2]) for rows in images) / 41
    assert worst_case(TABLE, ["weak", "strong"]).value == pair


def test_rho_2_and_l_2_are_over_all_images():
    ratios = [row["l2"] / row["x_l2"] for row in of("away")]
    assert rho_2(TABLE).value == pytest.approx(sum(ratios) / 41)
    assert l_2(TABLE, "away").value == pytest.approx(sum(row["l2"] for row in of("away")) / 41)
    assert rho_2(TABLE).count == 41
    assert rho_2(TABLE).failures == sum(not row["success"] for row in of("away")) > 0


def test_mean_norm_is_over_successes_and_median_norm_over_all_that_were_attacked():
    attacked = [row for row in of("nearest") if row["clean_prediction"] == row["label"]]
    sizes = sorted(row["l2"] if row["success"] else math.inf for row in attacked)
    won = [size for size in sizes if size < math.inf]
    mean, median = mean_norm(TABLE, "nearest"), median_norm(TABLE, "nearest")
    assert mean.value == pytest.approx(sum(won) / len(won))
    assert (mean.count, mean.failures) == (len(attacked), len(attacked) - len(won))
    assert median.value == np.median(sizes)
    assert (median.count, median.failures) == (mean.count, mean.failures)
    assert 0 < mean.failures < mean.count
    assert mean_norm(TABLE, "nearest", Linf).value == pytest.approx(mean.value / 2)


def test_natural_errors_may_count_as_successes_of_size_0():
    wrong = [row for row in of("nearest") if row["clean_prediction"] != row["label"]]
    sizes = sorted(0.0 if row in wrong else row["l2"] if row["success"] else math.inf for row in of("nearest"))
    won = [size for size in sizes if size < math.inf]
    mean = rho_cw(TABLE, "nearest")
    assert mean.value == pytest.approx(sum(won) / len(won))
    assert mean.value < mean_norm(TABLE, "nearest").value
    assert (mean.count, mean.failures) == (41, 41 - len(won))
    assert rho_cw(TABLE, "nearest", "median").value == np.median(sizes)
    healed = [row | ({"success": False, "l2": 9.0} if row["image"] == wrong[0]["image"] else {}) for row in ROWS]
    assert rho_cw(table_of(healed), "nearest").value == pytest.approx(mean.value)


def test_the_median_is_infinite_when_most_attacks_fail():
    rows = [row | {"success": row["success"] and row["image"] % 4 == 0} for row in ROWS]
    median = median_norm(table_of(rows), "nearest")
    assert median.value == math.inf
    assert median.high == math.inf
    assert summary(table_of(rows))["median L2, nearest"]["value"] is None


def naive_smallest(norm: str, names: list[str]) -> list[float]:
    smallest = []
    for image in range(41):
        rows = [of(name)[image] for name in names]
        found = [row[norm] for row in rows if row["prediction"] != row["label"]]
        clean = of("clean")[image]
        smallest.append(0.0 if clean["prediction"] != clean["label"] else min(found, default=math.inf))
    return smallest


@pytest.mark.parametrize("norm", [L2, Linf])
@pytest.mark.parametrize("names", [None, ["nearest"], ["weak", "away"]])
def test_the_smallest_norm_of_an_image_is_over_everything_that_broke_it(norm, names):
    everything = [name for name in ATTACKS if name != "clean"]
    expected = naive_smallest(repr(norm).lower(), names or everything)
    np.testing.assert_array_equal(smallest_norms(TABLE, norm, names), expected)
    for eps in (0.0, 0.05, 0.3, 2.0):
        assert robust_accuracy(TABLE, norm, eps, names).value == sum(size > eps * (1 + 1e-5) for size in expected) / 41


def test_the_mean_margin_counts_what_is_further_and_what_failed_as_the_most():
    smallest = naive_smallest("l2", ["nearest"])
    margin = mean_margin(TABLE, L2, 0.4, ["nearest"])
    assert margin.value == pytest.approx(sum(min(size, 0.4) for size in smallest) / 41)
    assert (margin.count, margin.failures) == (41, sum(size == math.inf for size in smallest))
    assert any(0.4 < size < math.inf for size in smallest)
    assert mean_margin(TABLE, L2, 0.1, ["nearest"]).value < margin.value


def test_a_curve_is_the_share_that_stands_at_every_radius():
    found = curve(TABLE, L2)
    smallest = naive_smallest("l2", ["nearest", "away"])
    for radius in [0.0, 1e-9, 0.1, *smallest[:20], 0.99, 5.0]:
        if radius < math.inf:
            assert found.at(radius) == pytest.approx(sum(size > radius for size in smallest) / 41)
    assert found.at(0.0) == pytest.approx(clean_accuracy(TABLE).value)
    assert found.points == ()
    assert (np.diff(found.accuracy) < 0).all()


def test_without_minimal_attacks_a_curve_is_points():
    found = curve(TABLE, Linf)
    assert (found.radius.tolist(), found.accuracy.tolist()) == ([0.0], [clean_accuracy(TABLE).value])
    expected = [(name, ATTACKS[name][1], accuracy(TABLE, name).value) for name in ("weak", "strong", "small")]
    assert sorted(found.points) == sorted(expected)


@pytest.mark.parametrize(("won", "count"), [(0, 7), (7, 7), (3, 10), (4981, 10_000)])
def test_intervals_of_shares_are_wilsons(won, count):
    z, p = stats.norm.ppf(0.975), won / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    found = share(np.arange(count) < won)
    assert (found.value, found.count) == (p, count)
    assert found.low == pytest.approx(middle - reach, abs=1e-12)
    assert found.high == pytest.approx(middle + reach, abs=1e-12)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_bootstrap_agrees_with_scipys(statistic):
    values = np.random.default_rng(1).exponential(size=301)
    found = bootstrap(values, statistic)
    peer = stats.bootstrap(
        (values,), getattr(np, statistic), method="percentile", n_resamples=4000, rng=np.random.default_rng(2)
    )
    width = peer.confidence_interval.high - peer.confidence_interval.low
    assert found.value == getattr(np, statistic)(values)
    assert found.low == pytest.approx(peer.confidence_interval.low, abs=0.1 * width)
    assert found.high == pytest.approx(peer.confidence_interval.high, abs=0.1 * width)
    assert bootstrap(values, statistic) == found


def test_bootstrap_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    held = sum(
        found.low <= 1.0 <= found.high
        for found in (bootstrap(rng.exponential(size=80), resamples=200) for _ in range(200))
    )
    assert 0.87 * 200 <= held <= 0.98 * 200


def test_the_order_of_the_rows_does_not_matter():
    assert (
        measures(table_of(sorted(ROWS, key=lambda row: (row["attack"], -row["image"])))).items()
        >= {name: found for name, found in measures(TABLE).items() if "2" not in name}.items()
    )
    assert rho_2(table_of(ROWS[::-1])) == rho_2(TABLE)


def test_a_summary_is_json_with_every_measure():
    found = summary(TABLE)
    assert set(found) == {
        "clean accuracy",
        *(f"accuracy, {name}" for name in ("weak", "strong", "small")),
        "robust accuracy, Linf 0.1",
        "robust accuracy, Linf 0.05",
        "Min, Linf 0.1",
        *(f"{kind} L2, nearest" for kind in ("mean", "median")),
        *(f"{kind}, away" for kind in ("rho_2", "l_2")),
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name, measure in found.items():
        low, value, high = (math.inf if measure[key] is None else measure[key] for key in ("low", "value", "high"))
        assert low <= value <= high, name


def test_two_spaces_are_summed_up_apart_and_not_mixed():
    both = TABLE + table_of(made_up(attacks=("clean", "away"), space="preprocessed"))
    assert {"rho_2, away", "rho_2, away (preprocessed)"} <= set(summary(both))
    assert rho_2(both.only(space="pixels")) == rho_2(TABLE)
    with pytest.raises(ValueError, match=r"two spaces, .* take evaluation.only\(space=...\) first"):
        rho_2(both)


def test_measures_refuse_what_they_cannot_mean():
    with pytest.raises(ValueError, match=r"rho_2, l_2 and rho_inf need FromPrediction\(nearest\)"):
        rho_2(TABLE, "nearest")
    with pytest.raises(ValueError, match="the table has none"):
        rho_2(table_of(made_up(attacks=("clean", "weak"))))
    with pytest.raises(ValueError, match="at least one bounded attack"):
        worst_case(table_of(made_up(attacks=("clean", "away"))))
    with pytest.raises(ValueError, match="no rows of attack 'none'"):
        accuracy(TABLE, "none")
    half = table_of([row for row in ROWS if row["attack"] != "weak" or row["image"] < 20])
    with pytest.raises(
        ValueError, match=r"weak was not run on . images that nothing else in the table fells within Linf 0.1"
    ):
        worst_case(half)
    with pytest.raises(ValueError, match="at least one image"):
        share(np.zeros(0, dtype=bool))

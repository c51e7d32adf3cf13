"""Random models among the measures: images count by their probability of being right, however many the attacks are."""

import numpy as np
import pytest

from made_up import Row, cascade, changed, made_up, of, table_of
from steelman.measures import (
    accuracy,
    average_accuracy,
    clean_accuracy,
    curve,
    minimum,
    robust_accuracy,
    success_rate,
    worst_case,
)
from steelman.measures.accuracies import right_within, still_correct
from steelman.measures.evidence import only
from steelman.measures.rows import lowest, mean_of, rows
from steelman.norms import Linf
from steelman.randomness import DRAWS

ATTACKS = ("clean", "weak", "strong", "small", "nearest")


def drawn(probability: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Shares of right answers in two sets of draws."""
    first, second = random.binomial(DRAWS, probability, (2, *probability.shape)) / DRAWS
    return first, second


def random_rows(seed: int = 0) -> list[Row]:
    """A made-up table of a random model: predictions are the most frequent answers."""
    random = np.random.default_rng(seed)

    def answers(row: Row) -> Row:
        # of 20 answers, few or many are right, as the prediction says; sometimes all or none
        right = row["prediction"] == row["label"]
        hits = random.integers(10 + right, 21) if right else random.integers(0, 11) * (random.random() < 0.7)
        first = int(np.clip(random.integers(0, 11), hits - 10, min(hits, 10)))
        return row | {"right": first / 10, "again": (hits - first) / 10}

    found = [answers(row) for row in made_up(60, seed, ATTACKS)]
    clean = {row["image"]: row for row in of(found, "clean")}
    return [
        row | {"right": clean[row["image"]]["right"], "again": clean[row["image"]]["again"]}
        if row["attack"] == "nearest" and row["linf"] == 0
        else row
        for row in found
    ]


def naive(table: list[Row], names: list[str], eps: float = np.inf) -> np.ndarray:
    """By image: chosen by one set of draws, read from the other, and the other way round; under as many of the attacks
    as leave the lowest mean."""
    names = [name for name in dict.fromkeys(row["attack"] for row in table) if name in names]
    each = [naive_of(table, names[:count], eps) for count in range(len(names) + 1)]
    return min(reversed(each), key=lambda found: found.sum())


def naive_of(table: list[Row], names: list[str], eps: float) -> np.ndarray:
    found = []
    for image in sorted({row["image"] for row in table}):
        mine = [row for name in ("clean", *names) for row in of(table, name) if row["image"] == image]
        near = [row for row in mine if row["attack"] == "clean" or row["linf"] <= eps]
        readings = []
        for chooser, reader in (("right", "again"), ("again", "right")):
            least = min(row[chooser] for row in near)
            readings.append([row[reader] for row in near if row[chooser] == least][-1])
        found.append(sum(readings) / 2)
    return np.array(found)


@pytest.mark.parametrize("seed", range(4))
def test_accuracies_are_means_of_probabilities(seed: int) -> None:
    made = random_rows(seed)
    table = table_of(made)
    order = [name for name in table.attacks if name != "clean"]
    clean = naive(made, []).mean()
    assert clean_accuracy(table).value == pytest.approx(clean)
    for name in order:
        expected = naive(made, [name]).mean()
        assert expected <= clean
        assert accuracy(table, name).value == pytest.approx(expected)
        assert success_rate(table, name).value == pytest.approx(1 - expected)
    bounded = [name for name in order if name != "nearest"]
    assert worst_case(table).value == pytest.approx(naive(made, bounded).mean())
    lowest_of_all = min(accuracy(table, name).value for name in bounded)
    assert minimum(table).value == pytest.approx(max(lowest_of_all, worst_case(table).value))
    for eps in (0.05, 0.1, 0.4):
        assert right_within(table, Linf, eps) == pytest.approx(naive(made, order, eps))
        assert robust_accuracy(table, Linf, eps).value == pytest.approx(naive(made, order, eps).mean())
        assert still_correct(table, Linf, eps).tolist() == (naive(made, order, eps) > 0.5).tolist()
    average = (naive(made, []) + naive(made, order, 0.05) + naive(made, order, 0.1)) / 3
    assert average_accuracy(table, Linf, [0.05, 0.1]).value == pytest.approx(average.mean())


@pytest.mark.parametrize("seed", range(4))
def test_a_curve_is_the_robust_accuracy_at_every_radius(seed: int) -> None:
    table = table_of(random_rows(seed))
    found = curve(table, Linf, list(ATTACKS[1:]))
    assert (np.diff(found.accuracy) <= 0).all()
    lowest_so_far = 1.0
    for radius, right in zip(found.radius, found.accuracy, strict=True):
        lowest_so_far = min(lowest_so_far, right_within(table, Linf, radius).mean())
        assert right == pytest.approx(lowest_so_far)
    assert {0.05, 0.1} <= set(found.radius)
    assert found.at(0.0) == pytest.approx(clean_accuracy(table).value, abs=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_without_draws_all_is_as_it_was(seed: int) -> None:
    made = made_up(60, seed, ATTACKS)
    for kept in (made, cascade(made, list(ATTACKS[1:]))):
        table = table_of(kept)
        assert not rows(table).random
        wrong = {row["image"] for row in kept if row["attack"] == "clean" and row["prediction"] != row["label"]}
        for eps in (0.05, 0.1):
            broken = {row["image"] for row in kept if row["prediction"] != row["label"] and row["linf"] <= eps}
            expected = [image not in wrong | broken for image in range(60)]
            assert still_correct(table, Linf, eps).tolist() == expected
            assert right_within(table, Linf, eps).tolist() == [float(right) for right in expected]


def test_rejections_and_older_tables() -> None:
    made = [row | {"right": float(row["prediction"] == row["label"])} for row in made_up(30, 0, ("clean", "weak"))]
    rejected = changed(made, "weak", prediction=-1, success=False)  # as one answer: `right` was 0 there
    assert accuracy(table_of(rejected), "weak").value == clean_accuracy(table_of(made)).value
    tenths = [row | {"right": 0.3} for row in made]  # an older table of a random model lacks `again`
    table = table_of(tenths)
    assert table["again"].tolist() == table["right"].tolist()
    assert clean_accuracy(table).value == pytest.approx(0.3)
    assert rows(table).random


def test_what_errs_half_of_the_time_is_broken_by_no_attack_alone() -> None:
    random = np.random.default_rng(0)
    made = [
        row | {"linf": 0.1, "label": 0, "clean_prediction": 0} for row in made_up(200, 0, ("clean", "weak", "strong"))
    ]

    def found(clean: float, weak: float, strong: float) -> bool | None:
        def answers(row: Row) -> Row:
            first, again = (
                random.binomial(DRAWS, {"clean": clean, "weak": weak, "strong": strong}[row["attack"]], 2) / DRAWS
            )
            return row | {"right": first, "again": again, "prediction": int(first + again < 1)}

        table = rows(table_of([answers(row) for row in made]))
        return only([table["strong"]], [table["weak"]], "Linf", 0.1)[1][1]

    assert found(1, 0.5, 0.5) is False
    assert found(1, 0.97, 0.03) is True
    assert found(1, 1, 0) is True


@pytest.mark.parametrize("attacks", [1, 5, 20])
def test_attacks_that_do_nothing_lower_nothing_however_many_they_are(attacks: int) -> None:
    first, second = drawn(np.full((attacks + 1, 4000), 0.9), np.random.default_rng(attacks))
    means = [lowest([*first[: count + 1]], [*second[: count + 1]]).mean() for count in range(attacks + 1)]
    assert means[-1] == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 10 / 4000))
    assert (np.diff(means) <= 0).all()
    if attacks > 1:  # the lowest of all shares is what that replaces
        assert ((first + second) / 2).min(axis=0).mean() < 0.86


def test_what_is_left_of_the_choice_is_small_and_upwards() -> None:
    """Attacks whose probabilities differ: ten draws do not always show which is lowest."""
    random = np.random.default_rng(0)
    probability = random.beta(4, 1, (6, 20_000))  # of attacks that have nothing in common
    error = lowest(*map(list, drawn(probability, random))).mean() - probability.min(axis=0).mean()
    assert 0 < error < 0.05
    probability = probability[:1] * random.uniform(0.9, 1, probability.shape)
    error = lowest(*map(list, drawn(probability, random))).mean() - probability.min(axis=0).mean()
    assert 0 < error < 0.035
    probability[1] = 0.02  # one attack breaks them all
    assert lowest(*map(list, drawn(probability, random))).mean() == pytest.approx(0.02, abs=0.003)


@pytest.mark.parametrize("attacks", [0, 1, 8])
@pytest.mark.parametrize("images", [30, 200])
@pytest.mark.parametrize("case", ["alike", "spread", "broken"])
def test_intervals_over_images_and_draws_cover_95_per_cent(case: str, images: int, attacks: int) -> None:
    """Each time other images and other draws; `count` simulations, of which a true interval misses 5 %."""
    random = np.random.default_rng(images + attacks)
    count, hits, truth = 400, 0, {"alike": 0.9, "spread": 0.8, "broken": 0.45 if attacks else 0.9}[case]
    for _ in range(count):
        own = random.beta(4, 1, images) if case == "spread" else np.full(images, 0.9)
        probability = np.tile(own, (attacks + 1, 1))
        if case == "broken":  # the last attack breaks every second image
            probability[1:][-1:] = own * (random.random(images) < 0.5)
        first, second = drawn(probability, random)
        measure = mean_of(lowest([*first], [*second]))
        hits += measure.low <= truth <= measure.high
        assert measure.low < measure.high
    assert hits / count >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / count), hits / count

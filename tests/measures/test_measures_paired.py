"""Two models on the same images: against published examples, sums written out here, and simulation."""

import math
from functools import cache
from math import comb

import numpy as np
import pytest

from made_up import changed, made_up, of, right, table_of
from steelman.measures import Paired, accuracy, clean_accuracy, paired, paired_norms, robust_accuracy, smallest_norms
from steelman.measures.chance import more_hits
from steelman.measures.measure import share
from steelman.measures.pairwise import _newcombe, same_images
from steelman.norms import L2, Linf
from steelman.table import Evaluation

ROWS = made_up()
OURS = table_of(ROWS)


def beaten(share: int = 3) -> list[dict]:
    """The same images, of which every third is right where it was not, and some are broken."""

    def prediction(row: dict) -> int:
        if row["attack"] == "clean" or row["clean_prediction"] != row["label"]:
            return row["prediction"]
        if row["image"] % share == 0:
            return row["label"]
        return (row["label"] + 1) % 3 if row["image"] % 7 == 1 else row["prediction"]

    return changed(ROWS, prediction=prediction, success=lambda row: prediction(row) != row["label"])


THEIRS = table_of(beaten())


def binomial(better: int, worse: int) -> float:
    """Mid-p: all more uneven splits of a fair coin's throws, and half of those that are as uneven."""
    count = better + worse
    splits = {k: comb(count, k) / 2**count for k in range(count + 1)}
    far = {k: abs(2 * k - count) - abs(better - worse) for k in splits}
    return sum(splits[k] * (1.0 if far[k] > 0 else 0.5) for k in splits if far[k] >= 0) if count else 1.0


def two_by_two(both: int, first: int, second: int, neither: int) -> Paired:
    """The comparison of unattacked images that are right under both, under one alone, and under neither."""
    kinds = [(0, 0)] * both + [(0, 1)] * first + [(1, 0)] * second + [(1, 1)] * neither
    rows = made_up(len(kinds), attacks=("clean",))
    tables = [
        table_of(changed(rows, label=0, clean_prediction=lambda row, of=of: kinds[row["image"]][of])) for of in (0, 1)
    ]
    return paired(*tables)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [  # the package contingencytables, of Fagerland, Lydersen and Laake's book; its tests print the first
        ((59, 6, 16, 80), -0.1186, -0.0046),
        ((80, 16, 6, 59), 0.0046, 0.1186),
    ],
)
def test_the_interval_is_newcombes(counts, low, high):
    found = two_by_two(*counts)
    assert (found.better, found.worse) == counts[1:3]
    assert found.difference.value == pytest.approx((counts[1] - counts[2]) / 161)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=5e-5)
    assert found.p_value == pytest.approx(binomial(*counts[1:3]))


@pytest.mark.parametrize(
    ("counts", "p_value"),
    [  # Fagerland, Lydersen and Laake: airway hyper-responsiveness before and after transplantation; complete responses
        ((1, 1, 7, 12), 0.0391),
        ((59, 6, 16, 80), 0.0347),
        ((2, 3, 3, 2), 1 - 0.5 * 20 / 64),
        ((5, 0, 0, 5), 1.0),
    ],
)
def test_the_p_value_is_mcnemars_by_mid_p(counts, p_value):
    both, first, second, neither = counts
    assert two_by_two(*counts).p_value == pytest.approx(p_value, abs=5e-5)
    assert two_by_two(both, second, first, neither).p_value == pytest.approx(p_value, abs=5e-5)
    ours, theirs = np.repeat([True, False], counts[1:3]), np.repeat([False, True], counts[1:3])
    sides = more_hits(ours, theirs), more_hits(theirs, ours)
    if first + second:
        assert sum(sides) == pytest.approx(1), "each throw counts once, and what was seen half on either side"
    if first != second:
        assert 2 * min(sides) == pytest.approx(p_value, abs=5e-5)


@pytest.mark.parametrize("counts", [(0, 0, 0, 9), (9, 0, 0, 0), (0, 9, 0, 0), (3, 0, 0, 6), (0, 1, 0, 0)])
def test_intervals_of_extremes_hold_the_difference_and_stay_inside(counts):
    found = two_by_two(*counts)
    assert -1 <= found.difference.low <= found.difference.value <= found.difference.high <= 1
    assert found.p_value == pytest.approx(binomial(*counts[1:3]))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    share_of = cache(lambda won: share(np.arange(80) < won))
    held = 0
    for _ in range(300):
        both, first, second, _ = rng.multinomial(80, [0.5, 0.15, 0.05, 0.3])
        low, high = _newcombe(share_of(both + first), share_of(both + second), both / 80)
        held += low <= 0.1 <= high
    assert 0.92 * 300 <= held <= 0.985 * 300


def test_pairs_are_counted_image_by_image():
    for name in ("weak", "nearest", "away"):
        found = paired(OURS, THEIRS, name)
        pairs = [(right(one), right(other)) for one, other in zip(of(ROWS, name), of(beaten(), name), strict=True)]
        assert (found.better, found.worse) == (pairs.count((True, False)), pairs.count((False, True)))
        assert found.ours == accuracy(OURS, name)
        assert found.theirs == accuracy(THEIRS, name)
        assert found.difference.value == pytest.approx((found.better - found.worse) / 41)
        assert found.p_value == pytest.approx(binomial(found.better, found.worse))
    other = paired(THEIRS, OURS, "weak")
    found = paired(OURS, THEIRS, "weak")
    assert (other.difference.low, other.difference.high) == pytest.approx(
        (-found.difference.high, -found.difference.low)
    )
    alike = paired(OURS, OURS)
    assert (alike.ours, alike.difference.value, alike.p_value) == (clean_accuracy(OURS), 0.0, 1.0)


def test_a_threat_is_compared_over_the_attacks_that_were_run_on_both():
    found = paired(OURS, THEIRS, (Linf, 0.1))
    assert found.ours == robust_accuracy(OURS, Linf, 0.1)
    assert found.theirs == robust_accuracy(THEIRS, Linf, 0.1)
    fewer = table_of([row for row in beaten() if row["attack"] in ("clean", "weak")])
    assert paired(OURS, fewer, (Linf, 0.1)).ours == robust_accuracy(OURS, Linf, 0.1, ["weak"])
    with pytest.raises(ValueError, match="no attack was run on both models"):
        paired(OURS, table_of(of(ROWS, "clean")), (Linf, 0.1))


def test_random_models_are_compared_by_their_probabilities_of_being_right():
    rng = np.random.default_rng(3)

    def drawn(rows: list[dict], probability: float) -> Evaluation:
        found = {(row["image"], row["attack"]): rng.binomial(10, probability, size=2) / 10 for row in rows}
        columns = {
            name: lambda row, half=half: float(found[row["image"], row["attack"]][half])
            for half, name in enumerate(("right", "again"))
        }
        return table_of(
            changed(rows, prediction=lambda row: row["label"], clean_prediction=lambda row: row["label"], **columns)
        )

    ours, theirs = (
        drawn(made_up(200, attacks=("clean", "weak")), 0.9),
        drawn(made_up(200, attacks=("clean", "weak")), 0.8),
    )
    for under, alone in (("clean", clean_accuracy), ((Linf, 0.1), lambda table: robust_accuracy(table, Linf, 0.1))):
        found = paired(ours, theirs, under)
        assert found.ours.value == pytest.approx(alone(ours).value)
        assert found.difference.value == pytest.approx(alone(ours).value - alone(theirs).value)
        assert found.difference.low < found.difference.value < found.difference.high
        assert found.difference.kind == "share"
        assert found.difference.high - found.difference.low < 0.06, "draws differ less than 0 and 1 do"
        assert found.p_value < 1e-4
    certain = paired(ours, table_of(made_up(200, attacks=("clean", "weak"))), "weak")
    assert certain.difference.low < certain.difference.value < certain.difference.high


def test_a_comparison_is_one_sentence():
    found = paired(OURS, THEIRS, "weak")
    assert found.sentence("PGD", "Plain") == (
        f"Under weak, PGD keeps {100 * found.ours.value:.1f} % of 41 images right and Plain "
        f"{100 * found.theirs.value:.1f} %, a difference of {100 * found.difference.value:+.1f} points (95 % interval "
        f"{100 * found.difference.low:+.1f} to {100 * found.difference.high:+.1f}): {found.better} images are right "
        f"only with PGD, {found.worse} only with Plain (mid-p McNemar p = {found.p_value:.2g})."
    )
    assert str(found) == found.sentence("ours", "theirs")
    assert "p < 0.0001" in str(two_by_two(10, 40, 0, 10))


def test_smallest_perturbations_are_compared_by_their_difference():
    ours, theirs = smallest_norms(OURS, L2), smallest_norms(THEIRS, L2)
    with pytest.raises(ValueError, match=r"nothing was found for \d+ of 41 images; give at_most"):
        paired_norms(OURS, THEIRS, L2)
    found = paired_norms(OURS, THEIRS, L2, at_most=0.6)
    assert found.difference.value == pytest.approx((np.minimum(ours, 0.6) - np.minimum(theirs, 0.6)).mean())
    better, worse = (int((np.minimum(a, 0.6) > np.minimum(b, 0.6)).sum()) for a, b in ((ours, theirs), (theirs, ours)))
    assert (found.better, found.worse) == (better, worse)
    assert found.p_value == pytest.approx(binomial(better, worse))
    assert found.difference.low < found.difference.value < found.difference.high
    wide = found.ours.high - found.theirs.low - (found.ours.low - found.theirs.high)
    assert found.difference.high - found.difference.low < 0.8 * wide, "pairs say more than two intervals do"
    assert "smallest L2 perturbation" in str(found)
    assert "(mid-p sign test p" in str(found)


def test_models_of_different_images_are_not_compared():
    same_images(OURS, THEIRS)
    fewer = table_of([row for row in beaten() if row["image"] != 4])
    with pytest.raises(ValueError, match=r"1 are in only one of them \(image 4 first\); .*of_images"):
        paired(OURS, fewer, "weak")

    def elsewhere(column: str, by: float) -> list[dict]:
        return changed(beaten(), **{column: lambda row: row[column] + (by if row["image"] in (6, 9) else 0)})

    older = changed(ROWS, pixels=0)  # without hashes, the images' sizes tell
    for first, rows in (
        (ROWS, elsewhere("label", 1)),
        (ROWS, elsewhere("pixels", 1)),
        (older, elsewhere("x_l2", 1e-3)),
        (ROWS, changed(elsewhere("x_l2", 1e-3), pixels=0)),
    ):
        with pytest.raises(ValueError, match="2 differ in label or pixels, image 6 first"):
            paired_norms(table_of(first), table_of(rows), L2, at_most=1.0)
    same_images(OURS, table_of(elsewhere("x_l2", 1e-3)))  # the same pixels have the same hash
    same_images(table_of(older), table_of(elsewhere("x_l2", 1e-7)))  # another machine's rounding
    behind = [table_of(rows, "preprocessed") for rows in (older, changed(elsewhere("x_l2", 1e-3), pixels=0))]
    same_images(*behind)  # each model's own preprocessing
    with pytest.raises(ValueError, match="2 differ in label or pixels, image 6 first"):
        same_images(*[table_of(rows, "preprocessed") for rows in (ROWS, elsewhere("pixels", 1))])


def test_attacks_that_share_only_a_name_are_not_compared():
    other = table_of(changed(beaten(), "weak", run="weak(steps=7)", eps=math.nan))
    for ask in (lambda: paired(OURS, other, "weak"), lambda: paired(OURS, other, (Linf, 0.1))):
        with pytest.raises(ValueError, match="weak is not the same attack in both tables"):
            ask()

"""Intervals that say 95 %: how often they hold the truth, by simulation, and their forms against independent ones."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from made_up import made_up, of, table_of
from steelman.measures import measures
from steelman.measures.intervals import of_mean
from steelman.measures.measure import Measure, mean, median, share
from steelman.measures.pairwise import _newcombe

Draw = Callable[[np.random.Generator, int], np.ndarray]
SAMPLES = 400
"""Of 95 % held, 92.5 % are 2.3 deviations below."""


def percentile(values: np.ndarray) -> Measure:
    """What was used before: the percentile bootstrap of the mean."""
    drawn = values[np.random.default_rng(0).integers(len(values), size=(200, len(values)))].mean(axis=1)
    return Measure(values.mean(), *np.quantile(drawn, [0.025, 0.975], method="inverted_cdf"), len(values))


def held(truth: float, find: Callable[[np.ndarray], Measure], draw: Draw, count: int, samples: int = SAMPLES) -> float:
    """The share of samples whose interval holds the truth; every interval has a width and holds its own value."""
    rng = np.random.default_rng(0)
    found = [find(draw(rng, count)) for _ in range(samples)]
    assert all(each.low <= each.value <= each.high for each in found)
    return float(np.mean([each.low <= truth <= each.high for each in found]))


def with_zeros(zeros: float, draw: Draw) -> Draw:
    return lambda rng, count: draw(rng, count) * (rng.random(count) >= zeros)


def exponential(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.exponential(size=count)


def lognormal(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.exp(rng.normal(size=count) - 0.5)


def radii(robust: float, right: float) -> Draw:
    """The share of 5 radii within which an image is right: all where it is robust, else any number where it is right at
    all; the mean is (robust + right) / 2."""

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        kind = rng.random(count)
        return np.where(kind < robust, 1.0, np.where(kind < right, rng.integers(6, size=count) / 5, 0.0))

    return draw


@pytest.mark.parametrize("count", [20, 50, 100, 500])
@pytest.mark.parametrize(("robust", "right"), [(0.99, 1.0), (0.95, 1.0), (0.5, 0.95), (0.0, 0.95), (0.0, 0.05)])
def test_averages_over_radii(robust, right, count):
    """Wilson's own interval holds a share of 99.5 % of 20 images in no more than 90.5 % of samples."""
    found = held((robust + right) / 2, lambda values: mean(values, kind="share"), radii(robust, right), count)
    assert (0.9 if count == 20 else 0.925) <= found <= 0.998


def test_the_percentile_bootstrap_does_not_hold_what_it_says():
    """If this one held, the tests around it would show nothing."""
    rng = np.random.default_rng(1)
    for truth, draw, find in (
        (0.995, radii(0.99, 1.0), lambda values: mean(values, kind="share")),
        (0.1, with_zeros(0.9, exponential), mean),
    ):
        samples = [draw(rng, 50) for _ in range(SAMPLES)]
        share_held, wide = [], []
        for way in (percentile, find):
            found = [way(values) for values in samples]
            share_held.append(np.mean([each.low <= truth <= each.high for each in found]))
            wide.append(np.mean([each.low < each.high for each in found]))
        assert share_held[0] < 0.87
        assert wide[0] < 1
        assert share_held[1] > 0.925
        assert wide[1] == 1


@pytest.mark.parametrize(("count", "least"), [(5, 0.9), (20, 0.9), (50, 0.925), (100, 0.925)])
@pytest.mark.parametrize("zeros", [0.0, 0.1, 0.5, 0.9])
def test_means_of_lengths(zeros, count, least):
    assert held(1 - zeros, mean, with_zeros(zeros, exponential), count) >= least


@pytest.mark.parametrize(("count", "least"), [(20, 0.9), (100, 0.925)])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9])
def test_means_of_lengths_with_long_tails(zeros, count, least):
    assert held(1 - zeros, mean, with_zeros(zeros, lognormal), count) >= least


def test_intervals_of_means_are_no_wider_than_they_have_to_be():
    """Without skewness they are Student's, but for the degrees of freedom."""
    rng = np.random.default_rng(2)
    for count in (20, 100):
        widths = []
        for _ in range(50):
            values = 3 + rng.normal(size=count)
            found, reach = mean(values), stats.t.ppf(0.975, count - 1) * stats.sem(values)
            widths.append((found.high - found.low) / (2 * reach))
        assert 0.98 < np.median(widths) < 1.05


@pytest.mark.parametrize("count", [5, 20, 50, 100])
@pytest.mark.parametrize("most", [0.5, 0.9, 0.97])
def test_means_of_values_of_which_most_are_one(most, count):
    """Radii of a search on a grid, and distances that are cut at a largest one."""

    def grid(rng: np.random.Generator, count: int) -> np.ndarray:
        return 0.05 * np.where(rng.random(count) < most, 1, rng.integers(2, 7, size=count))

    def cut(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.where(rng.random(count) < most, 1.0, rng.random(count))

    assert held(0.05 * (most + 4 * (1 - most)), mean, grid, count) >= 0.925
    assert held((1 + most) / 2, lambda values: mean(values, highest=1.0), cut, count) >= 0.925


@pytest.mark.parametrize(("count", "least"), [(20, 0.9), (50, 0.91), (100, 0.925)])
@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_means_over_the_things_of_images(rate, count, least):
    """Targets that are reached, whose number goes with their size."""

    def reached(rng: np.random.Generator, count: int) -> np.ndarray:
        weights = rng.binomial(9, rng.beta(4 * rate, 4 * (1 - rate), size=count))
        return np.stack([weights * (1 + 0.1 * weights) * rng.gamma(4, 0.25, size=count), weights])

    many = reached(np.random.default_rng(3), 10**6)
    truth = many[0].sum() / many[1].sum()
    assert held(truth, lambda both: mean(both[0], weights=both[1]), reached, count) >= least


@pytest.mark.parametrize("count", [20, 50, 100])
@pytest.mark.parametrize("same", [0.0, 0.5])
def test_mean_differences_of_pairs(same, count):
    def pairs(rng: np.random.Generator, count: int) -> np.ndarray:
        ours = rng.exponential(size=count)
        return np.stack([ours, np.where(rng.random(count) < same, ours, ours * rng.random(count))])

    def find(both: np.ndarray) -> Measure:
        return mean(both[0] - both[1], scale=float(both.max()))

    assert held((1 - same) / 2, find, pairs, count) >= 0.925


@pytest.mark.parametrize("count", [6, 10, 20, 100, 501])
@pytest.mark.parametrize("failed", [0.0, 0.4])
def test_medians(failed, count):
    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.where(rng.random(count) < failed, np.inf, rng.exponential(size=count))

    truth = -math.log(1 - 0.5 / (1 - failed))
    assert 0.925 <= held(truth, median, draw, count) <= 0.998


@pytest.mark.parametrize("cells", [(0.5, 0.15, 0.05), (0.48, 0.02, 0.01), (0.9, 0.03, 0.03), (0.3, 0.2, 0.2)])
@pytest.mark.parametrize("count", [20, 100])
def test_differences_of_paired_shares(cells, count):
    """Newcombe's interval, also where the models hardly differ."""
    rng, found = np.random.default_rng(4), []
    shares = [share(np.arange(count) < won) for won in range(count + 1)]
    for both, first, second, _ in rng.multinomial(count, [*cells, 1 - sum(cells)], size=SAMPLES):
        low, high = _newcombe(shares[both + first], shares[both + second], float(both / count))
        assert low < high
        found.append(low <= cells[1] - cells[2] <= high)
    assert np.mean(found) >= 0.925


def test_every_measure_of_tables_drawn_from_a_larger_one():
    """The measures of 1,000 images are the truth for tables of 40 of them."""
    rows = made_up(1000, seed=5)
    rows += [row | {"attack": f"at {eps}", "eps": eps} for eps in (0.025, 0.075) for row in of(rows, "small")]
    whole, rng = table_of(rows), np.random.default_rng(5)
    truth, held = measures(whole), dict.fromkeys(measures(whole), 0)
    for _ in range(60):
        found = measures(whole.of_images(np.sort(rng.choice(1000, 40, replace=False)).tolist()))
        for name in truth:
            held[name] += found[name].low <= truth[name].value <= found[name].high
            assert found[name].low < found[name].high
    assert {"AvgAcc, Linf, 4 radii to 0.1", "rho_2, away", "median rho_cw, nearest", "rho_inf, grid"} <= set(held)
    assert min(held.values()) >= 0.88 * 60
    assert np.mean(list(held.values())) >= 0.94 * 60


@pytest.mark.parametrize("count", [5, 30, 400])
def test_ends_are_where_halls_transformation_is_at_students_quantiles(count):
    values = np.random.default_rng(6).exponential(size=count)
    skewness, kurtosis = stats.skew(values, bias=False), stats.kurtosis(values, fisher=False)
    quantile = stats.t.ppf(0.975, min(2 * count / (kurtosis - 1), count - 1)) / math.sqrt(count)
    for end, wanted in zip(of_mean(values, (-math.inf, math.inf)), (quantile, -quantile), strict=True):
        t = (values.mean() - end) / values.std(ddof=1)
        found = t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / (6 * count)
        assert found == pytest.approx(wanted)


def test_many_values_give_what_scipys_bias_corrected_bootstrap_gives():
    values = np.random.default_rng(1).exponential(size=400)
    peer = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=4000, rng=np.random.default_rng(2))
    low, high = peer.confidence_interval
    found = mean(values)
    assert found.value == values.mean()
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert mean(values) == found


@pytest.mark.parametrize("count", [6, 7, 20, 41, 300])
def test_intervals_of_medians_are_those_of_scipys_test(count):
    values = np.random.default_rng(7).exponential(size=count)
    peer = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert (median(values).low, median(values).high) == (peer.low, peer.high)


def test_values_0_and_1_have_wilsons_interval():
    for won, count in ((0, 7), (7, 7), (3, 10), (499, 500)):
        flags = np.arange(count) < won
        found, known = mean(flags.astype(float), kind="share"), share(flags)
        assert (found.value, found.low, found.high) == pytest.approx((known.value, known.low, known.high))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 50])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 2.5])
def test_one_value_alone_is_no_certainty(value, count):
    """More images say more; what no image says anything about has no end."""
    alike = np.full(count, value)
    found = [mean(alike), median(alike), mean(count * alike, weights=np.full(count, count)), mean(0 * alike, scale=2.0)]
    if value <= 1:
        found += [mean(alike, kind="share"), mean(alike, highest=1.0)]
    for each in found:
        assert each.low <= each.value <= each.high
        assert each.low < each.high
        assert not math.isnan(each.low + each.high)
    if value:
        assert mean(alike).high - mean(alike).low > mean(np.tile(alike, 2)).high - mean(np.tile(alike, 2)).low > 0
    assert math.isinf(mean(alike).high) == (value == 0)
    assert math.isinf(median(alike).high) == (value == 0 or count < 6)


def test_rounding_is_no_deviation():
    values = 0.1 + np.float32(1e-9) * np.arange(40)
    assert mean(values).high - mean(values).low > 0.01


def test_infinite_values_leave_the_lower_end():
    values = np.array([1.0, 2.0, 3.0, np.inf])
    found = mean(values)
    assert (found.value, found.high) == (math.inf, math.inf)
    assert found.low == mean(np.array([1.0, 2.0, 3.0, 3.0])).low
    assert mean(np.full(3, np.inf)).low == 0
    assert (median(values).low, median(values).high) == (0, math.inf)
    assert median(np.full(30, np.inf)).low == math.inf


def test_values_below_0_are_not_cut_off():
    assert mean(np.array([-1.0, 0.0, 2.0])).low < 0
    assert mean(np.array([0.0, 0.0, 2.0])).low == 0
    assert mean(np.array([0.0, 0.0, 2.0]), scale=2.0).low < 0

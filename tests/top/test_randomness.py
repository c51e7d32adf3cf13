"""Noise: SplitMix64's published stream, the distributions, and independence of the batch."""

import pytest
import torch
from scipy import stats

from steelman.randomness import Draws, combine


def draws(count: int, seed: int = 0) -> Draws:
    return Draws.start(torch.Generator().manual_seed(seed), count, torch.device("cpu"))


def test_the_published_stream_of_seed_1234567() -> None:
    bits = Draws(torch.tensor([1234567]))._bits((5,))[0].tolist()
    assert [value % 2**64 for value in bits] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_uniform_is_the_top_bits_of_the_stream() -> None:
    single = Draws(torch.tensor([1234567])).uniform((1,))
    double = Draws(torch.tensor([1234567])).uniform((1,), torch.float64)
    assert float(single) == (6457827717110365317 >> 40) / 2**24
    assert float(double) == (6457827717110365317 >> 11) / 2**53


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distributions(dtype: torch.dtype) -> None:
    some = draws(20)
    uniform, normal = some.uniform((500,), dtype), some.normal((500,), dtype)
    assert uniform.dtype == normal.dtype == dtype
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert stats.kstest(uniform.flatten(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.flatten(), "norm").pvalue > 1e-3
    # Across images as well as within one.
    assert stats.kstest(draws(5000).uniform((1,), dtype).flatten(), "uniform").pvalue > 1e-3


def test_an_image_meets_the_same_noise_in_any_batch() -> None:
    whole, which = draws(6), torch.tensor([4, 1])
    for kind in ("uniform", "normal"):
        together = getattr(whole, kind)((3, 2, 2))
        assert torch.equal(together[which], getattr(whole[which], kind)((3, 2, 2)))
        assert torch.equal(together, getattr(whole, kind)((3, 2, 2)))
        assert torch.equal(whole.split(3)[which].uniform((4,)), whole[which].split(3).uniform((4,)))


def test_a_generator_gives_one_seed_per_image_in_order() -> None:
    assert torch.equal(draws(6).seeds[:4], draws(4).seeds)
    assert not torch.equal(draws(4, 0).seeds, draws(4, 1).seeds)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        first = Draws.start(None, 3, torch.device("cpu")).seeds
        second = Draws.start(None, 3, torch.device("cpu")).seeds
        torch.manual_seed(7)
        assert torch.equal(first, Draws.start(None, 3, torch.device("cpu")).seeds)
        assert not torch.equal(first, second)


def test_splits_are_independent_of_their_source_and_of_each_other() -> None:
    some = draws(50)
    parts = [some, some.split(0), some.split(1), some.split(0).split(1), some.split(1).split(0)]
    values = [part.uniform((100,), torch.float64).flatten() for part in parts]
    for i, one in enumerate(values):
        for other in values[:i]:
            assert stats.pearsonr(one, other).pvalue > 1e-3


def test_neighbouring_seeds_are_unrelated() -> None:
    values = Draws(torch.arange(2000)).uniform((2,), torch.float64)
    assert stats.kstest(values[:, 0], "uniform").pvalue > 1e-3
    assert stats.pearsonr(values[:-1, 0], values[1:, 0]).pvalue > 1e-3
    assert stats.pearsonr(values[:, 0], values[:, 1]).pvalue > 1e-3


def test_combine_tells_every_number_and_its_place_apart() -> None:
    seeds = torch.arange(100)
    made = [combine(seeds), combine(seeds, 0), combine(seeds, 1), combine(seeds, 0, 1), combine(seeds, 1, 0)]
    assert len(torch.cat(made).unique()) == 500
    assert torch.equal(combine(seeds, torch.arange(100))[7], combine(torch.tensor(7), 7))


def test_combine_is_a_step_of_splitmix64() -> None:
    """In integers of Python's: results that were stored with a seed depend on these bits."""

    def mix(bits: int) -> int:
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
        return bits ^ bits >> 31

    for seed, number in ((0, 0), (1234567, 3), (-5, -2)):
        expected = mix((seed + mix((2 * number + 1) % 2**64) + 0x9E3779B97F4A7C15) % 2**64)
        assert int(combine(torch.tensor(seed), number)) % 2**64 == expected


@pytest.mark.parametrize("seeds", [torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.zeros(3, 1).long()])
def test_wrong_seeds_are_refused(seeds: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"seeds must be int64 of shape \(3,\)"):
        Draws.start(seeds, 3, torch.device("cpu"))

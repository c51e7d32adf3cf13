"""Noise attacks: distributions, what samples buy, and the fewest entries of a pattern."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import norm as normal
from torch import Tensor

from affine import affine, images, small_net
from steelman.attacks import GaussianNoise, SaltAndPepper, SigmaNoise, UniformNoise
from steelman.attacks.core.attack import Attack
from steelman.norms import L0, L1, L2, Linf

MODEL = small_net()
X = images(12)
Y = MODEL(X).argmax(1)
GREY = torch.full((40, 3, 16, 16), 0.5, dtype=torch.float64)
ZERO = torch.zeros(40, dtype=torch.int64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def constant(x: Tensor) -> Tensor:
    """Never fooled: class 0."""
    return torch.tensor([[10.0, 0.0]], dtype=x.dtype).expand(len(x), 2)


def perturbation(attack: Attack, x: Tensor = GREY) -> Tensor:
    return (attack(constant, x, ZERO[: len(x)], generator=generator()) - x).flatten(1)


def test_gaussian_noise_is_normal_and_of_its_length() -> None:
    delta = perturbation(GaussianNoise(eps=2.0))
    torch.testing.assert_close(delta.norm(dim=1), torch.full((40,), 2.0, dtype=torch.float64), rtol=1e-9, atol=0)
    entries = delta.flatten() / (2 / math.sqrt(768))
    assert abs(float(entries.mean())) < 0.03
    assert abs(float((entries.abs() < 1).double().mean()) - 0.6827) < 0.01
    assert abs(float((entries**4).mean()) - 3) < 0.15


@pytest.mark.parametrize("eps", [0.5, 3.0, 30.0])
def test_rescaled_noise_has_its_length_after_the_clip(eps: float) -> None:
    x = images(40, seed=3)
    sizes = torch.tensor([eps] * 39 + [0.0], dtype=torch.float64)
    delta = perturbation(GaussianNoise(eps=sizes, rescale=True, box=(0.0, 1.0)), x)
    clipped = perturbation(GaussianNoise(eps=sizes), x)
    room = torch.where(delta > 0, 1 - x.flatten(1), x.flatten(1))
    longest = torch.where(delta != 0, room, 0).norm(dim=1)
    torch.testing.assert_close(delta.norm(dim=1), torch.minimum(sizes, longest), rtol=1e-9, atol=1e-12)
    moved = clipped != 0
    assert torch.equal(delta.sign()[moved], clipped.sign()[moved])
    assert (delta.abs() >= clipped.abs() - 1e-12).all()
    assert float((longest > eps).double().mean()) > 0.9 or eps > 1, "the box did not leave room"
    # Entries that are not clipped keep their proportions.
    free = (delta.abs() < room - 1e-9) & (clipped.abs() < room - 1e-9) & moved
    ratio = torch.where(free, delta / clipped, torch.nan)
    spread = ratio.nan_to_num(-torch.inf).amax(1) - ratio.nan_to_num(torch.inf).amin(1)
    assert not bool((spread > 1e-6).any())


@pytest.mark.parametrize("sigma", [50 / 255, 100 / 255, 2.0])
@pytest.mark.parametrize("grey", [0.0, 0.3, 0.5])
def test_noise_of_a_deviation_is_clipped_normal(sigma: float, grey: float) -> None:
    """Mean and deviation of clip(grey + sigma z) in closed form, and the shares at the ends of the box."""
    x = torch.full((40, 3, 16, 16), grey, dtype=torch.float64)
    entries = SigmaNoise(sigma)(constant, x, ZERO, generator=generator()).flatten()
    low, high = -grey / sigma, (1 - grey) / sigma
    inside = normal.cdf(high) - normal.cdf(low)
    mean = grey * inside + sigma * (normal.pdf(low) - normal.pdf(high)) + normal.sf(high)
    square = (grey**2 + sigma**2) * inside + normal.sf(high)
    square += sigma * (grey * normal.pdf(low) - (grey + 1) * normal.pdf(high))
    deviation = math.sqrt(square - mean**2)
    close = 4 * deviation / math.sqrt(len(entries))
    assert float(entries.mean()) == pytest.approx(mean, abs=close)
    assert float(entries.std()) == pytest.approx(deviation, abs=close)
    for end, share in ((0.0, normal.cdf(low)), (1.0, normal.sf(high))):
        assert float((entries == end).double().mean()) == pytest.approx(share, abs=2 / math.sqrt(len(entries)))


def test_noise_of_a_deviation_without_a_box_and_of_one_for_each_image() -> None:
    sigmas = torch.linspace(0.0, 2.0, 40, dtype=torch.float64)
    delta = perturbation(SigmaNoise(sigmas, box=None))
    torch.testing.assert_close(delta.std(dim=1), sigmas, rtol=0.1, atol=0)
    scaled = delta[1:] / sigmas[1:, None]
    assert abs(float((scaled.abs() < 1).double().mean()) - 0.6827) < 0.01
    assert abs(float((scaled**4).mean()) - 3) < 0.15
    whole, seeds = SigmaNoise(0.3), torch.arange(40)
    together = whole(constant, GREY, ZERO, generator=seeds)
    alone = whole(constant, GREY[7:8], ZERO[:1], generator=seeds[7:8])
    assert torch.equal(together[7:8], alone)
    assert whole.budget is None
    assert SigmaNoise(box=(0.0, 255.0)).sigma == pytest.approx(100)


def test_uniform_noise_is_uniform_in_the_ball() -> None:
    delta = perturbation(UniformNoise(eps=0.1))
    assert float(delta.abs().max()) <= 0.1
    for cut in (0.02, 0.05, 0.09):
        assert abs(float((delta.abs() < cut).double().mean()) - cut / 0.1) < 0.01
    for norm, eps in ((L2, 1.0), (L1, 4.0), (L0, 20.0)):
        delta = perturbation(UniformNoise(eps=eps, norm=norm))
        assert (norm.size(delta) <= eps).all()
        assert (norm.size(delta) >= 0.97 * eps).all()  # most of a ball of 768 dimensions is near its surface


@pytest.mark.parametrize(
    "attack",
    [GaussianNoise(eps=0.15), GaussianNoise(eps=0.15, rescale=True), UniformNoise(eps=0.06), SigmaNoise(0.05)],
    ids=repr,
)
def test_more_samples_win_more_and_done_images_leave(attack: Any) -> None:
    model = affine(1)
    seeds = torch.arange(len(model.x))
    last = torch.zeros(len(model.x), dtype=torch.bool)
    for samples in (1, 4, 60):
        result = replace(attack, samples=samples).run(model, model.x, model.y, generator=seeds)
        assert (result.success | ~last).all()
        assert (result.forwards[~result.success] == samples).all()
        assert (result.gradients == 0).all()
        assert samples == 1 or bool((result.forwards < samples).any())
        if samples > 1:
            assert int(result.success.sum()) > int(last.sum())
        last = result.success


@pytest.mark.parametrize("whole_pixels", [False, True])
def test_salt_and_pepper_sets_entries_to_the_ends(whole_pixels: bool) -> None:
    def fooled_by(count: int) -> Any:
        def model(x: Tensor) -> Tensor:
            changed = (x != 0.5).flatten(1).sum(1, keepdim=True).to(x.dtype)
            return torch.cat([torch.zeros_like(changed), changed - count + 0.5], 1)

        return model

    for count in (1, 2, 77, 200, 768):
        result = SaltAndPepper(samples=3, whole_pixels=whole_pixels).run(
            fooled_by(count), GREY, ZERO, generator=generator()
        )
        assert bool(result.success.all())
        assert (result.l0 == count).all()
        changed = result.x_adv[result.x_adv != 0.5]
        assert set(changed.tolist()) <= {0.0, 1.0}
        assert count < 50 or abs(float(changed.mean()) - 0.5) < 0.05
        assert int(result.forwards.max()) <= 1 + 2 * math.log2(1024) + 2
        if whole_pixels:
            pixels = (result.x_adv != 0.5).sum(1)
            assert (((pixels == 1) | (pixels == 2)).flatten(1).sum(1) <= 1).all()
            whole = (pixels == 3)[:, None].expand(GREY.shape)
            same = result.x_adv == result.x_adv[:, :1]
            assert bool(same[whole].all())


def test_entries_that_stand_at_their_end_already_do_not_count() -> None:
    x = images(12)
    ends = ((x == 0) | (x == 1)).flatten(1).sum(1)
    assert int(ends.min()) > 2

    def model(z: Tensor) -> Tensor:
        changed = (z != x[: len(z)]).flatten(1).sum(1, keepdim=True).to(z.dtype)
        return torch.cat([torch.zeros_like(changed), changed - 2.5], 1)

    for row in range(12):
        x[0] = images(12)[row]
        result = SaltAndPepper(samples=1).run(model, x[:1], ZERO[:1], generator=generator())
        assert result.l0.tolist() == [3]
        assert int(result.forwards) <= 5  # 0, 1, 2 and 4 entries, and 3
    assert int(SaltAndPepper(samples=1).run(constant, x, ZERO[:12], generator=generator()).forwards.max()) <= 7


def test_salt_and_pepper_finds_the_fewest_entries_of_its_pattern() -> None:
    """One pattern: with one entry fewer of its order, the label stands. More patterns never need more."""
    seeds = torch.arange(12)
    one = SaltAndPepper(samples=1).run(MODEL, X, Y, generator=seeds)
    ten = SaltAndPepper(samples=10).run(MODEL, X, Y, generator=seeds)
    many = SaltAndPepper(samples=200).run(MODEL, X, Y, generator=seeds)
    assert bool(many.success.all())
    assert (ten.success | ~one.success).all()
    assert (ten.l0 <= one.l0)[one.success].all()
    assert (many.l0 <= ten.l0)[ten.success].all()
    assert float(many.l0.mean()) < float(one.l0[one.success].mean())
    for result in (one, many):
        for row in torch.where(result.success)[0].tolist():
            changed = torch.where((result.x_adv[row] != X[row]).flatten())[0]
            fooled = []
            for entry in changed:
                less = result.x_adv[row].flatten().clone()
                less[entry] = X[row].flatten()[entry]
                fooled.append(int(MODEL(less.reshape(1, 1, 4, 6)).argmax()) != int(Y[row]))
            assert not all(fooled), "the last entry of the order was not needed"


def test_share_max_limits_the_entries_set() -> None:
    x = X.clone()
    most = SaltAndPepper(share_max=0.25, samples=50).run(MODEL, x, Y, generator=generator())
    assert 1 <= int(most.l0.max()) <= 6

    grey = GREY[:1, :1, :4, :6]

    def counting(z: Tensor) -> Tensor:
        """Fooled by 7 entries of 24."""
        changed = (z != grey).flatten(1).sum(1, keepdim=True).to(z.dtype)
        return torch.cat([torch.zeros_like(changed), changed - 6.5], 1)

    for share, wanted in ((0.25, False), (7 / 24, True)):
        attack = SaltAndPepper(share_max=share, samples=3)
        assert bool(attack.run(counting, grey, ZERO[:1], generator=generator()).success) == wanted
    assert not bool(SaltAndPepper().run(constant, GREY, ZERO, generator=generator()).success.any())
    unfooled = SaltAndPepper()(constant, GREY, ZERO, generator=generator())
    assert torch.equal(unfooled, GREY)


@pytest.mark.parametrize(
    "attack", [GaussianNoise(eps=0.5), UniformNoise(eps=0.3), SigmaNoise(0.3), SaltAndPepper()], ids=repr
)
def test_decisions_are_enough(attack: Attack) -> None:
    hard = attack(lambda x: MODEL(x).argmax(1), X, Y, generator=generator())
    assert torch.equal(hard, attack(MODEL, X, Y, generator=generator()))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (4,), (1,)], ids=repr)
def test_any_shape_of_image(shape: tuple[int, ...]) -> None:
    x = torch.rand(5, *shape, generator=generator(), dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([10 * mean, 10 - 10 * mean], 1)

    y = model(x).argmax(1)
    for attack in (
        GaussianNoise(eps=1.0, samples=3),
        GaussianNoise(eps=1.0, samples=3, rescale=True),
        UniformNoise(eps=0.5),
        UniformNoise(eps=1.0, norm=L1),
        SaltAndPepper(samples=30),
        SaltAndPepper(whole_pixels=True),
    ):
        result = attack.run(model, x, y, generator=generator())
        assert result.x_adv.shape == x.shape
        if not isinstance(attack, SaltAndPepper):
            assert (attack.norm.size(result.x_adv - x) <= attack.eps).all()
    assert bool(SaltAndPepper(samples=30).run(model, x, y, generator=generator()).success.all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise(norm=Linf), "needs norm=L2; got Linf. Use UniformNoise"),
        (lambda: GaussianNoise(samples=0), "GaussianNoise needs samples >= 1; got 0"),
        (lambda: SigmaNoise(-0.1), "SigmaNoise needs sigma >= 0; got -0.1"),
        (lambda: SigmaNoise(samples=0), "SigmaNoise needs samples >= 1; got 0"),
        (lambda: UniformNoise(samples=-1), "UniformNoise needs samples >= 1; got -1"),
        (lambda: SaltAndPepper(samples=0), "SaltAndPepper needs samples"),
        (lambda: SaltAndPepper(share_max=0.0), "share_max.*got 0"),
        (lambda: SaltAndPepper(share_max=1.2), "share_max.*got 1.2"),
        (lambda: SaltAndPepper(norm=L2), "needs norm=L0; got L2"),
        (lambda: SaltAndPepper(box=None), "give it one"),
    ],
)
def test_impossible_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Noisy copies against a plain loop, and against what noise is known to do to a linear model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine import images, small_net
from steelman import Batch
from steelman.data import InMemory
from steelman.defences import GaussianAugmentation, LabelSmoothing, NoiseMixture, Objective, Plain, UniformAugmentation

X, Y = images(9), torch.arange(9) % 10
SEEDS = torch.arange(40, 49)


class Recording(nn.Module):
    """Keeps its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x)
        return self.net(x)


def shown(defence: Objective, batch: Batch) -> Tensor:
    model = Recording()
    defence(model, batch)
    return torch.stack(model.shown)


def both(**settings: Any) -> list[Objective]:
    return [GaussianAugmentation(**settings), UniformAugmentation(**settings)]


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_value_and_gradient_are_the_mean_over_the_copies(clean: bool, clip: bool) -> None:
    for defence in both(copies=4, keep_clean=clean, clip=clip):
        model, batch = Recording(), Batch(X, Y, seeds=SEEDS)
        ours = defence(model, batch)
        copies = model.shown[:]
        assert len(copies) == 4 + clean
        assert any(torch.equal(copy, X) for copy in copies) == clean
        assert all(bool(((copy >= 0) & (copy <= 1)).all()) for copy in copies) == clip
        written = torch.zeros((), dtype=torch.float64)
        for copy in copies:
            for row in range(len(X)):
                written = written + F.cross_entropy(model.net(copy[row : row + 1]), Y[row : row + 1])
        written = written / (len(copies) * len(X))
        torch.testing.assert_close(ours, written)
        parameters = list(model.net.parameters())
        torch.testing.assert_close(torch.autograd.grad(ours, parameters), torch.autograd.grad(written, parameters))


def test_the_noise_is_of_its_distribution() -> None:
    x = torch.full((60, 1, 8, 8), 0.5, dtype=torch.float64)
    batch = Batch(x, torch.zeros(60, dtype=torch.int64), seeds=torch.arange(60))
    normal, uniform = (shown_linear(defence, batch) - 0.5 for defence in both(copies=6))
    assert float(normal.mean()) == pytest.approx(0, abs=0.01)
    assert float(normal.std()) == pytest.approx(0.3, rel=0.02)
    assert float((normal.abs() < 0.3).double().mean()) == pytest.approx(0.6827, abs=0.01)
    assert float(uniform.abs().max()) <= 0.3
    for cut in (-0.2, 0.0, 0.1):
        assert float((uniform < cut).double().mean()) == pytest.approx((cut + 0.3) / 0.6, abs=0.01)
    for noise in (normal, uniform):  # copies, images and pixels are independent of one another
        rows = noise.flatten(2).flatten(0, 1)
        assert float((rows @ rows.T / rows.square().mean() / 64).fill_diagonal_(0).abs().max()) < 0.75
        columns = rows.T @ rows / rows.square().mean() / len(rows)
        assert float(columns.fill_diagonal_(0).abs().max()) < 0.3


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(0.4 * torch.randn(3, 64, generator=chance, dtype=torch.float64))
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x)
        return x.flatten(1) @ self.weight.T


def shown_linear(defence: Objective, batch: Batch) -> Tensor:
    model = Linear()
    defence(model, batch)
    return torch.stack(model.shown)


def test_an_image_has_the_same_noise_in_any_batch_and_other_noise_with_another_seed() -> None:
    for defence in both(copies=3):
        whole = shown(defence, Batch(X, Y, seeds=SEEDS))
        part = shown(defence, Batch(X, Y, seeds=SEEDS)[torch.tensor([7, 2])])
        assert torch.equal(part, whole[:, [7, 2]])
        assert not bool((shown(defence, Batch(X, Y, seeds=SEEDS + 1)) == whole).any())
        assert not bool((whole[0] == whole[1]).any())
    normal, uniform = (shown(defence, Batch(X, Y, seeds=SEEDS)) - X for defence in both(copies=1))
    assert abs(float(torch.corrcoef(torch.stack([normal.flatten(), uniform.flatten()]))[0, 1])) < 0.2


@pytest.mark.parametrize(
    ("make", "variance"),
    [(lambda size, n: GaussianAugmentation(size, n), 1.0), (lambda size, n: UniformAugmentation(size, n), 1 / 3)],
)
def test_small_noise_on_a_linear_model_is_the_ridge_of_its_curvature(
    make: Callable[[float, int], Objective], variance: float
) -> None:
    """E CE(W (x + d)) = CE(W x) + (var / 2) tr(W' (diag p - p p') W) + O(var^2)."""
    model, size, copies = Linear(), 0.1, 60
    x = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = Batch(x, torch.arange(400) % 3, seeds=torch.arange(400))
    with torch.no_grad():
        found = make(size, copies)(model, batch) - F.cross_entropy(model(x), batch.y)
        mean_noise = (torch.stack(model.shown[:copies]).mean(0) - x).flatten(1)
        ridge = 0.0
        for row, p in enumerate(model(x).softmax(1)):
            slope = (p - F.one_hot(batch.y[row], 3)) @ model.weight
            found = found - slope @ mean_noise[row] / len(x)  # the first order, whose expectation is 0
            curvature = p.diag() - p[:, None] * p
            ridge += float(torch.trace(model.weight.T @ curvature @ model.weight)) / len(x)
    assert float(found) == pytest.approx(variance * size**2 / 2 * ridge, rel=0.05)


def mixed(count: int, **settings: Any) -> Tensor:
    """Grey images after the mixture."""
    x = torch.full((count, 1, 8, 8), 0.5, dtype=torch.float64)
    batch = Batch(x, torch.zeros(count, dtype=torch.int64), seeds=torch.arange(count))
    return NoiseMixture(**settings).noisy(batch)


def test_a_mixture_leaves_a_share_clean_and_draws_from_its_deviations() -> None:
    noise = mixed(3000, sigmas=(0.02, 0.05, 0.1), share=0.6) - 0.5
    deviations = noise.flatten(1).std(1)
    clean = deviations == 0
    assert float(clean.double().mean()) == pytest.approx(0.4, abs=3 * (0.24 / 3000) ** 0.5)
    limits = torch.tensor([0.0, 0.035, 0.075, 1.0], dtype=torch.float64)
    counts = torch.histogram(deviations[~clean], limits).hist / int((~clean).sum())
    torch.testing.assert_close(counts, torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0, atol=0.04)
    for low, high, sigma in zip(limits[:-1], limits[1:], (0.02, 0.05, 0.1), strict=True):
        chosen = noise[(deviations > low) & (deviations <= high)].flatten()
        assert float(chosen.std()) == pytest.approx(sigma, rel=0.02)
        assert float((chosen.abs() < sigma).double().mean()) == pytest.approx(0.6827, abs=0.01)


def test_a_mixture_clips_where_it_is_asked_to() -> None:
    clipped, free = (mixed(50, sigmas=(100 / 255,), share=1.0, clip=clip) for clip in (True, False))
    assert bool(((clipped == 0) | (clipped == 1)).any())
    assert torch.equal(clipped, free.clamp(0, 1))
    assert not torch.equal(clipped, free)
    assert torch.equal(mixed(50, share=0.0), torch.full((50, 1, 8, 8), 0.5, dtype=torch.float64))


def test_a_mixture_is_its_objective_on_the_noisy_images() -> None:
    batch = Batch(X, Y, seeds=SEEDS)
    for inner in (Plain(), LabelSmoothing(0.3)):
        defence, model = NoiseMixture(inner, share=0.7), small_net()
        noisy = defence.noisy(batch)
        assert 0 < int((noisy != X).flatten(1).any(1).sum()) < len(X)
        torch.testing.assert_close(defence(model, batch), inner(model, Batch(noisy, Y)), rtol=0, atol=0)
        part = torch.tensor([7, 2])
        assert torch.equal(defence.noisy(batch[part]), noisy[part])
        again = defence.noisy(Batch(X, Y, seeds=SEEDS + 100))
        assert not torch.equal(again, noisy)


def test_a_mixture_sets_its_objective_up() -> None:
    with pytest.raises(ValueError, match="LabelSmoothing needs at least two classes"):
        NoiseMixture(LabelSmoothing()).setup(small_net(), InMemory("one", X, 0 * Y, ("one",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigmas": ()}, "at least one deviation"),
        ({"sigmas": (0.1, 0.0)}, "sigmas > 0"),
        ({"sigmas": (float("nan"),)}, "sigmas finite"),
        ({"share": 1.5}, "share in"),
    ],
)
def test_impossible_mixtures_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseMixture(**settings)

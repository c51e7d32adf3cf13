"""Defense-GAN: its projection onto what the generator makes, and how it falls."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from steelman import FGSM, DefenseGAN, Latent, Plain, Training, Within, fit
from steelman.attacks import Attack
from steelman.data import Digits
from steelman.networks import MLP, Filtered, GANGenerator, MLPGenerator
from steelman.norms import L2
from steelman.training import Adam
from steelman.types import Images

SHAPE = (1, 8, 8)


class Made(nn.Sequential):
    """A generator of any layers."""

    def __init__(self, *layers: nn.Module, latent: int, shape: tuple[int, ...]) -> None:
        super().__init__(*layers, nn.Unflatten(1, shape))
        self.latent, self.shape, self.passes = latent, shape, 0

    def forward(self, z: Tensor) -> Tensor:
        self.passes += len(z)
        return super().forward(z)


def generator() -> MLPGenerator:
    torch.manual_seed(1)
    return MLPGenerator(latent=4, hidden=16)


def linear() -> Made:
    torch.manual_seed(2)
    made = Made(nn.Linear(3, 12), latent=3, shape=(1, 3, 4)).double()
    layer = made[0]
    assert isinstance(layer, nn.Linear)
    nn.init.constant_(layer.bias, 0.5)
    return made


def images(count: int = 6, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def seeded(filter: nn.Module, x: Images, seed: int = 0) -> Images:
    torch.manual_seed(seed)
    return filter(x)


def error(found: Images, x: Images) -> Tensor:
    return (found - x).square().flatten(1).mean(1)


def test_an_image_that_the_generator_makes_of_a_start_is_itself() -> None:
    filter, z = DefenseGAN(generator(), steps=5, restarts=2), torch.randn(2, 6, 4)
    x = filter.network(z[1])
    found, at, size = filter.reconstructed(x, z)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-7)
    torch.testing.assert_close(at, z[1])
    assert size.max() < 1e-12


def test_it_is_never_worse_than_its_best_start_and_no_worse_with_more() -> None:
    z, x = torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(3)), images()
    for lr in (1.0, 10.0, 1e4):  # the last one leaps about
        filter = DefenseGAN(generator(), steps=10, restarts=4, lr=lr)
        first = torch.stack([error(filter.network(each), x) for each in z]).amin(0)
        found, at, size = filter.reconstructed(x, z)
        assert (size <= first).all()
        torch.testing.assert_close(size, error(found, x))
        torch.testing.assert_close(found, filter.network(at))
        torch.testing.assert_close(filter.reconstructed(x, z.flip(0))[0], found)
    more = [error(seeded(DefenseGAN(generator(), steps=8, restarts=count), x), x) for count in (1, 2, 5)]
    assert (more[1] <= more[0] + 1e-7).all()
    assert (more[2] <= more[1] + 1e-7).all()
    assert (more[2] < more[0]).any()


def test_a_linear_generator_gives_the_least_squares() -> None:
    made = linear()
    layer = made[0]
    assert isinstance(layer, nn.Linear)
    weight = layer.weight.detach()
    curvature = 2 / 12 * torch.linalg.eigvalsh(weight.T @ weight).max()
    filter = DefenseGAN(made, steps=400, restarts=2, lr=float(1 / curvature))
    x = images(5, (1, 3, 4)).double()
    found, at, _ = filter.reconstructed(x, torch.randn(2, 5, 3, dtype=torch.float64))
    best = torch.linalg.lstsq(weight, (x.flatten(1) - 0.5).T).solution.T
    torch.testing.assert_close(at, best, rtol=0, atol=1e-7)
    projector = weight @ torch.linalg.pinv(weight)
    torch.testing.assert_close(found.flatten(1), 0.5 + (x.flatten(1) - 0.5) @ projector, rtol=0, atol=1e-7)
    again = filter.reconstructed(found, torch.randn(2, 5, 3, dtype=torch.float64))[0]
    torch.testing.assert_close(again, found, rtol=0, atol=1e-7)
    moved = x + 0.01 * torch.randn_like(x)
    there = filter.reconstructed(moved, torch.randn(2, 5, 3, dtype=torch.float64))[0]
    torch.testing.assert_close((there - found).flatten(1), (moved - x).flatten(1) @ projector, rtol=0, atol=1e-7)


def test_steps_by_hand() -> None:
    made, x = linear(), images(1, (1, 3, 4)).double()
    z = speed = torch.zeros(1, 3, dtype=torch.float64)
    layer = made[0]
    assert isinstance(layer, nn.Linear)
    for step in range(5):
        rest = made(z) - x
        speed = 0.7 * speed + 2 / 12 * rest.flatten(1) @ layer.weight
        z = z - (0.4 if step < 4 else 0.04) * speed
    filter = DefenseGAN(made, steps=5, restarts=1, lr=0.4)
    torch.testing.assert_close(filter.reconstructed(x, torch.zeros(1, 1, 3, dtype=torch.float64))[1], z)


def test_it_costs_what_its_card_says() -> None:
    filter = DefenseGAN(Made(nn.Linear(3, 12), nn.Sigmoid(), latent=3, shape=(1, 3, 4)), steps=7, restarts=4)
    before = filter.network.passes
    filter(images(5, (1, 3, 4)))
    assert filter.network.passes - before == 5 * 4 * (7 + 1)


def test_its_first_z_have_the_deviation_that_is_asked_for() -> None:
    class Seen(DefenseGAN):
        def reconstructed(self, x: Images, starts: Tensor) -> tuple[Images, Tensor, Tensor]:
            self.starts = starts
            return super().reconstructed(x, starts)

    for start in (1.0, 0.25):
        filter = Seen(generator(), steps=0, restarts=50, start=start)
        seeded(filter, images(20))
        assert filter.starts.shape == (50, 20, 4)
        assert float(filter.starts.std()) == pytest.approx(start, rel=0.05)


def test_it_refuses_what_it_was_not_made_for() -> None:
    filter = DefenseGAN(generator())
    for wrong, message in (
        (images(shape=(1, 7, 8)), r"trained on images of \(1, 8, 8\); these are \(1, 7, 8\)"),
        (2 * images() - 1, r"needs images in \[0, 1\]; these reach from -"),
    ):
        with pytest.raises(ValueError, match=message):
            filter(wrong)
    for settings in ({"restarts": 0}, {"steps": -1}, {"lr": 0.0}, {"momentum": 1.0}, {"start": 0.0}):
        with pytest.raises(ValueError, match="DefenseGAN needs steps >= 0, restarts >= 1"):
            DefenseGAN(generator(), **settings)  # pyright: ignore[reportArgumentType]
    outside = Made(nn.Linear(3, 12), latent=3, shape=(1, 3, 4))
    nn.init.constant_(outside[0].bias, -1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ValueError, match=r"images in \[0, 1\], of shape \(1, 3, 4\); this one makes \(1, 3, 4\), from -1"
    ):
        DefenseGAN(outside)
    outside.shape = (1, 4, 4)
    with pytest.raises(ValueError, match=r"of shape \(1, 4, 4\); this one makes \(1, 3, 4\)"):
        DefenseGAN(outside)
    with pytest.raises(ValueError, match="such as a GANGenerator, with shape, latent; got MLP"):
        DefenseGAN(MLP(shape=SHAPE))
    assert DefenseGAN(GANGenerator(shape=SHAPE, latent=2, width=1)).out_shape(SHAPE) == SHAPE


@cache
def principal() -> Made:
    """A generator without training: 16 principal components of digits, clipped."""
    (batch,) = Digits().load("train").in_order(2000)
    rows = batch.x.flatten(1)
    _, spread, directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    made = Made(nn.Linear(16, 64), nn.Hardtanh(0, 1), latent=16, shape=SHAPE)
    layer = made[0]
    assert isinstance(layer, nn.Linear)
    layer.weight.data = directions[:16].T * spread[:16] / len(rows) ** 0.5
    layer.bias.data = rows.mean(0)
    return made


def test_an_attack_on_z_breaks_it_where_one_without_a_gradient_does_nothing() -> None:
    torch.manual_seed(0)
    data = Digits().load("train")
    network = MLP(shape=SHAPE, hidden=(32,))
    fit(network, data, Plain(), Training(epochs=4, batch_size=32, optimiser=Adam(lr=0.01)), progress=False)
    filter = DefenseGAN(principal(), steps=15, restarts=2, lr=3.0)
    model = Filtered(filter, network).eval()
    batch = next(Digits().load("test").in_order(30))

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return network(filter(x)) + 0 * x.sum()

    def accuracy(attack: Attack, on: nn.Module) -> float:
        torch.manual_seed(1)
        return 1 - float(attack.run(on, batch.x, batch.y, generator=torch.arange(30)).success.double().mean())

    with pytest.warns(UserWarning, match="gradient is zero"):
        assert accuracy(FGSM(eps=1.98, norm=L2), Flat().eval()) > 0.85
    latent = Latent(starts=2, inversion_steps=30, steps=30, search_steps=3, confidence=3.0, past_filter=True)
    assert accuracy(Within(latent, eps=1.98), model) < 0.15

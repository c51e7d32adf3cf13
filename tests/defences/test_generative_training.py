"""How networks that model images are trained: each loss by hand, and by `fit`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import PGD, Batch, Training, checkpoint, fit
from steelman.data import Digits
from steelman.defences.generative import CRITIC, Denoising, PixelLikelihood, WassersteinGAN
from steelman.networks import MLP, DenoisingAutoencoder, MLPCritic, MLPGenerator, PixelCNN
from steelman.randomness import Draws
from steelman.training import SGD, Adam, play

SHAPE = (1, 8, 8)
DATA = Digits().load("train").subset(torch.arange(64))
SEEDS = torch.arange(10)


def batch(count: int = 10) -> Batch:
    found = next(DATA.in_order(count))
    return Batch(found.x.double(), found.y, found.index, SEEDS[:count])


def test_likelihood_is_the_cross_entropy_of_levels() -> None:
    network, images = PixelCNN(shape=SHAPE, levels=5, width=3, depth=1).double(), batch()
    levels = (images.x * 4).round().long()
    wanted = F.nll_loss(network(levels.double() / 4).log_softmax(1), levels)
    torch.testing.assert_close(PixelLikelihood()(network, images), wanted)
    nn.init.zeros_(network.layers[-1].weight)  # pyright: ignore[reportArgumentType]
    nn.init.zeros_(network.layers[-1].bias)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(PixelLikelihood()(network, images), torch.tensor(5.0).double().log())


def test_denoising_is_the_squared_error_of_what_it_makes_of_noise() -> None:
    class Same(nn.Identity):
        shape = SHAPE

    images = Batch(torch.full((10, *SHAPE), 0.5).double(), torch.zeros(10, dtype=torch.int64), seeds=SEEDS)
    loss = Denoising(sigma=0.1)(Same(), images)
    assert float(loss) == pytest.approx(0.01, rel=0.2)
    assert float(Denoising(sigma=0.0)(Same(), images)) == 0
    noisy = []
    Denoising(sigma=3.0)(type("Seen", (Same,), {"forward": lambda self, x: noisy.append(x) or x})(), images)
    assert (noisy[0].min(), noisy[0].max()) == (0, 1)
    with pytest.raises(ValueError, match=r"from images to images; MLP makes \(10, 10\) of \(10, 1, 8, 8\)"):
        Denoising()(MLP(shape=SHAPE).double(), images)


def test_the_penalty_is_that_of_the_slope_between_real_and_made_images() -> None:
    """Of a linear critic, whose slope is its weight; and of another one by finite differences."""
    real, made, share = torch.rand(6, *SHAPE).double(), torch.rand(6, *SHAPE).double(), torch.rand(6, 1).double()

    class Critic(nn.Module):
        weight = torch.randn(64).double().requires_grad_()

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight

    critic = Critic()
    loss = WassersteinGAN(penalty=3.0).critic_loss(critic, real, made, share)
    wanted = (critic(made) - critic(real)).mean() + 3 * (critic.weight.norm() - 1) ** 2
    torch.testing.assert_close(loss, wanted)
    (pull,) = torch.autograd.grad(loss, critic.weight)
    weight = critic.weight.detach()
    wanted = (made - real).flatten(1).mean(0) + 6 * (weight.norm() - 1) * weight / weight.norm()
    torch.testing.assert_close(pull, wanted)
    smooth = MLPCritic(shape=SHAPE, width=8).double()
    between = (share.view(-1, 1, 1, 1) * made + (1 - share.view(-1, 1, 1, 1)) * real).flatten(1)
    step = 1e-5 * torch.eye(64).double()
    with torch.no_grad():
        slopes = [
            (smooth((between + each).view(-1, *SHAPE)) - smooth((between - each).view(-1, *SHAPE))) for each in step
        ]
        steep = (torch.stack(slopes, 1) / 2e-5).norm(dim=1)
        wanted = (smooth(made) - smooth(real)).mean() + 10 * ((steep - 1) ** 2).mean()
    loss = WassersteinGAN().critic_loss(smooth, real, made, share)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)


def test_a_batch_is_a_critics_steps_and_one_of_the_generator() -> None:
    torch.manual_seed(0)
    gan, images = WassersteinGAN(critic_steps=3, critic="MLPCritic", width=4), batch()
    nets = nn.ModuleDict({"classifier": MLPGenerator(latent=2, hidden=4), CRITIC: MLPCritic(width=4)}).double()
    other = nn.ModuleDict({"classifier": MLPGenerator(latent=2, hidden=4), CRITIC: MLPCritic(width=4)}).double()
    other.load_state_dict(nets.state_dict())
    optimisers = {name: SGD(lr=0.1).build(net.parameters()) for name, net in nets.items()}
    losses = play(gan, nets, images, optimisers)
    assert set(losses) == {"classifier", CRITIC}
    generator, critic = other["classifier"], other[CRITIC]
    second = torch.optim.SGD(critic.parameters(), lr=0.1, momentum=0.9)
    draws, parts = Draws(SEEDS), ([0, 3, 6, 9], [1, 4, 7], [2, 5, 8])
    for places in map(torch.tensor, parts):
        made = generator(draws[places].split(312).normal((2,), torch.float64)).detach()
        second.zero_grad()
        gan.critic_loss(critic, images.x[places], made, draws[places].split(313).uniform((1,))).backward()
        second.step()
    first = torch.optim.SGD(generator.parameters(), lr=0.1, momentum=0.9)
    (-critic(generator(draws[torch.tensor(parts[-1])].split(314).normal((2,), torch.float64))).mean()).backward()
    first.step()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(nets.state_dict()[name], value)
    play(gan, nets, batch(2), optimisers)  # fewer images than steps


def test_the_best_epoch_is_that_of_the_lowest_loss_on_held_out_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = PixelCNN(shape=SHAPE, width=4, depth=1)
    how = Training(epochs=3, batch_size=16, optimiser=Adam(lr=0.03), validation=20)
    log = fit(network, DATA, PixelLikelihood(), how, folder=tmp_path, progress=False).log
    losses = [line["held_out"] for line in log]
    assert losses[-1] < losses[0]
    assert "clean" not in log[0]
    assert [json.loads(line)["held_out"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == losses
    assert checkpoint.load(tmp_path / "best.safetensors")["epoch"] == losses.index(min(losses[1:]))
    again = fit(PixelCNN(shape=SHAPE, width=4, depth=1), DATA, PixelLikelihood(), how, folder=tmp_path, progress=False)
    assert again.log == log
    rising = Training(epochs=2, batch_size=16, optimiser=SGD(lr=0.0), validation=20)
    noise = fit(DenoisingAutoencoder(shape=SHAPE), DATA, Denoising(), rising, progress=False).log
    assert noise[0]["held_out"] == noise[1]["held_out"], "the same noise for each epoch's measure"


def test_a_gan_has_no_measure_and_keeps_its_last_epoch(tmp_path: Path) -> None:
    gan = WassersteinGAN(critic_steps=1, critic="MLPCritic", width=8)
    how = Training(epochs=2, batch_size=16, optimiser=Adam(), validation=10)
    log = fit(MLPGenerator(latent=2, hidden=8), DATA, gan, how, folder=tmp_path, progress=False).log
    assert {"loss", "critic loss"} <= set(log[1])
    assert not {"clean", "held_out"} & set(log[1])
    assert checkpoint.load(tmp_path / "best.safetensors")["epoch"] == 2
    assert isinstance(checkpoint.network(tmp_path, CRITIC), MLPCritic)


@pytest.mark.parametrize(
    ("network", "game", "training", "message"),
    [
        (
            MLP(shape=SHAPE),
            PixelLikelihood(),
            Training(),
            "PixelLikelihood trains a PixelCNN; MLP has no log_likelihood",
        ),
        (MLP(shape=SHAPE), Denoising(), Training(), "Denoising trains a DenoisingAutoencoder; MLP has no shape"),
        (MLP(shape=SHAPE), WassersteinGAN(), Training(), "WassersteinGAN trains a GANGenerator; MLP has no latent"),
        (MLPGenerator(shape=(1, 4, 4)), WassersteinGAN(), Training(), r"images of \(1, 4, 4\); those of Digits"),
        (MLPGenerator(), WassersteinGAN(critic="Criticc"), Training(), "critic: there is no network 'Criticc'"),
        (
            PixelCNN(shape=SHAPE),
            PixelLikelihood(),
            Training(monitor=PGD(), validation=8),
            "nothing to attack: leave out training.monitor",
        ),
        (PixelCNN(shape=SHAPE), PixelLikelihood(), Training(track_test=5), "leave out training.track_test"),
    ],
)
def test_what_cannot_be_trained_is_refused(network: Any, game: Any, training: Training, message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=message):
        fit(network, DATA, game, training, progress=False)

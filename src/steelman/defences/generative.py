"""How networks that model images are trained, for filters: by likelihood, by denoising, and as a GAN."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.game import Descend, Game, Player, Step, Updates
from steelman.defences.objective import Objective
from steelman.networks.building import network_of
from steelman.networks.generative import GANCritic
from steelman.optimisers import Adam, Optimiser
from steelman.randomness import Draws
from steelman.ranges import Count, Factor
from steelman.schedules import Constant, Schedule
from steelman.types import CLASSIFIER, Batch, Images

CRITIC = "critic"
_NOISE, _LATENT, _MIX, _GENERATED = 311, 312, 313, 314
"""For `Draws.split`."""


def _needs(model: nn.Module, name: str, method: str, such_as: str) -> None:
    if not hasattr(model, name):
        raise ValueError(
            f"{method} trains a {such_as}; {type(model).__name__} has no {name}: make the recipe's network one"
        )


@dataclass(frozen=True)
class PixelLikelihood(Objective):
    """Maximum likelihood of a `PixelCNN`: the cross-entropy of each value's level given the values before it.

    -(1/n) sum_i log p(x_i | x_<i) in nats, a mean over the n values and over images; x is rounded to the levels.

    Labels are not used. The best epoch is that of the lowest value on held-out images.

    Cost: 1 forward and backward pass.
    Reference: Aaron van den Oord, Nal Kalchbrenner and Koray Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016,
    section 3.

    Raises:
        ValueError: the network is no `PixelCNN`.
    """

    classifies: ClassVar[bool] = False

    def setup(self, model: nn.Module, data: Dataset) -> "PixelLikelihood":
        _needs(model, "log_likelihood", "PixelLikelihood", "PixelCNN")
        return self

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return -model.log_likelihood(batch.x).mean()  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class Denoising(Objective):
    """A denoising autoencoder A: the squared error of what it makes of noisy images.

    |A(clip(x + sigma n)) - x|^2 / n_values, n ~ N(0, I), clip to [0, 1], a mean over images.

    sigma  deviation of the noise, default .1 (MagNet, MNIST; CIFAR-10: .025)

    Labels are not used. The noise is new in each epoch, where MagNet's code draws it once before training; its penalty
    of 1e-9 on the squares of activations is left out. The best epoch is that of the lowest value on held-out images.

    Cost: 1 forward and backward pass.
    Reference: Pascal Vincent, Hugo Larochelle, Yoshua Bengio and Pierre-Antoine Manzagol, "Extracting and composing
    robust features with denoising autoencoders", ICML 2008, section 2; Dongyu Meng and Hao Chen, "MagNet: a two-pronged
    defense against adversarial examples", CCS 2017, section 5.1.

    Raises:
        ValueError: the network does not answer with images of the shape that it is given.
    """

    classifies: ClassVar[bool] = False

    sigma: Factor = 0.1

    def setup(self, model: nn.Module, data: Dataset) -> "Denoising":
        _needs(model, "shape", "Denoising", "DenoisingAutoencoder")
        return self

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        draws = Draws.start(batch.seeds, len(batch), batch.x.device).split(_NOISE)
        noisy = (batch.x + self.sigma * draws.normal(batch.x.shape[1:], batch.x.dtype)).clamp(0, 1)
        made = model(noisy)
        if made.shape != batch.x.shape:
            raise ValueError(
                f"Denoising trains a network from images to images; {type(model).__name__} makes {tuple(made.shape)} "
                f"of {tuple(batch.x.shape)}"
            )
        return (made - batch.x).square().mean()


@dataclass(frozen=True)
class WassersteinGAN(Game):
    """WGAN-GP: a generator G, and a critic D whose slope between real and made images is drawn to 1.

    In every batch D takes `critic_steps` steps, each on a part of the images, with z ~ N(0, I) and u uniform on [0, 1]:

        mean D(G(z)) - mean D(x) + penalty mean (|grad D(u G(z) + (1 - u) x)|_2 - 1)^2

    and G then one: -mean D(G(z)).

    critic_steps  default 5 (paper and code); a batch has as many parts, so 5 times 50 images are the code's batch
    penalty       lambda, default 10 (paper and code)
    critic        the critic's network, default "GANCritic" (Defense-GAN's code)
    width         of the critic, default 64 (Defense-GAN's code)
    optimiser     of the critic, default Adam(lr=1e-4, betas=(.5, .9)) (code; paper: betas (0, .9))
    schedule      of the critic

    The recipe's network is G, which its optimiser trains: Defense-GAN's code has the critic's for both. Labels are not
    used. There is no measure on held-out images: the last epoch is kept. Defense-GAN's code takes the norm of the slope
    along an image's rows alone, so that each column of each channel is drawn to 1 by itself; here, as in the paper, it
    is that of the whole image.

    Cost: per batch, critic_steps parts forwards through G and three times through D, and one part through both.
    Reference: Ishaan Gulrajani, Faruk Ahmed, Martin Arjovsky, Vincent Dumoulin and Aaron Courville, "Improved training
    of Wasserstein GANs", NeurIPS 2017, section 4; Pouya Samangouei, Maya Kabkab and Rama Chellappa, "Defense-GAN:
    protecting classifiers against adversarial attacks using generative models", ICLR 2018, section 3.

    Raises:
        ValueError: the network is no generator, or of images of another shape.
    """

    classifies: ClassVar[bool] = False

    critic_steps: Count = 5
    penalty: Factor = 10.0
    critic: str = GANCritic.__name__
    width: Count = 64
    optimiser: Optimiser = field(default=Adam(lr=1e-4, betas=(0.5, 0.9)), kw_only=True)
    schedule: Schedule = field(default=Constant(), kw_only=True)

    def setup(self, model: nn.Module, data: Dataset) -> "WassersteinGAN":
        _needs(model, "latent", "WassersteinGAN", "GANGenerator")
        if tuple(model.shape) != tuple(data.shape):  # pyright: ignore[reportArgumentType]
            raise ValueError(f"this generator makes images of {model.shape}; those of {data.name} are {data.shape}")
        return self

    def players(self, data: Dataset) -> dict[str, Player]:
        critic = network_of({"kind": self.critic, "width": self.width}, data.shape, len(data.classes), path="critic")
        return {CRITIC: Player(critic, self.optimiser, self.schedule)}

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        generator, critic = nets[CLASSIFIER], nets[CRITIC]
        draws, count = Draws.start(batch.seeds, len(batch), batch.x.device), len(batch)
        places = torch.zeros(0, dtype=torch.int64)
        for turn in range(self.critic_steps):  # in every process as many, however few images it has
            places = torch.arange(turn, max(count, turn + 1), self.critic_steps, device=batch.x.device) % count
            part, real = draws[places], batch.x[places]
            with torch.no_grad():
                made = generator(self._latent(generator, part.split(_LATENT)))
            yield Descend(self.critic_loss(critic, real, made, part.split(_MIX).uniform((1,))), critic.parameters())
            yield Step(CRITIC)
        made = generator(self._latent(generator, draws[places].split(_GENERATED)))
        yield Descend(-critic(made).mean(), generator.parameters())
        yield Step()

    def critic_loss(self, critic: nn.Module, real: Images, made: Images, share: Tensor) -> Tensor:
        """What the critic descends; `share` is u, of shape (batch, 1)."""
        with torch.enable_grad():
            between = torch.lerp(real, made, share[:, :, None, None].to(real.dtype)).detach().requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        steep = slope.flatten(1).norm(dim=1)
        return (critic(made) - critic(real) + self.penalty * (steep - 1).square()).mean()

    def _latent(self, generator: nn.Module, draws: Draws) -> Tensor:
        return draws.normal((generator.latent,), next(generator.parameters()).dtype)  # pyright: ignore[reportArgumentType]

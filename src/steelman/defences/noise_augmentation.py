"""Training on noisy copies."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steelman.defences.objective import Objective
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.randomness import Draws
from steelman.types import Batch, Images

# Which draws of an image are whose.
_GAUSSIAN, _UNIFORM = 301, 302


@dataclass(frozen=True)
class GaussianAugmentation(Objective):
    """Gaussian data augmentation: cross-entropy on copies of each image with normal noise.

    (1/N) sum_i CE(x + d_i, y), d_i ~ N(0, sigma^2 I), new in each epoch.

    sigma   standard deviation in the units of the images, default .3 (paper, MNIST; CIFAR-10: .05)
    copies  N, default 10 (paper); one copy has the same expectation at a tenth of the cost
    keep_clean  count the image itself as one more copy (authors' code); default False (paper)
    clip    clip the copies to [0, 1]; default False (authors' code; the paper does not say)

    Paper and code differ: the code draws the copies once, before training, which here is the preparation `NoisyCopies`
    and `Plain`. With a bounded ReLU (`bounded_relu = 1.0` in a recipe's network) it is the paper's whole defence.
    For small sigma it adds the penalty (sigma^2 / 2) tr(Hessian of CE at x). That smooths the network on average over
    directions; it says nothing of the worst direction, which an attack looks for.

    Each copy is its own pass: on a CPU one pass over all copies takes 1.3 times as long on a convolutional network, and
    .8 times on a perceptron; memory is the same, and `micro_batch` saves it.

    Cost: `copies` forward and backward passes, one more with `keep_clean`.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, Gaussian data augmentation; Chris Bishop, "Training with noise is equivalent to Tikhonov
    regularization", Neural Computation 1995.

    Raises:
        ValueError: sigma below 0, or copies below 1.
    """

    sigma: float = 0.3
    copies: int = 10
    keep_clean: bool = False
    clip: bool = False

    def __post_init__(self) -> None:
        _check("sigma", self.sigma, self.copies)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        def noise(draws: Draws) -> Images:
            return self.sigma * draws.normal(batch.x.shape[1:], batch.x.dtype)

        return _on_copies(model, batch, noise, _GAUSSIAN, self.copies, self.keep_clean, self.clip)


@dataclass(frozen=True)
class UniformAugmentation(Objective):
    """Uniform data augmentation: cross-entropy on copies of each image with noise that is uniform in a cube.

    (1/N) sum_i CE(x + d_i, y), d_i uniform in [-eps, eps]^n, new in each epoch.

    eps     half the side of the cube in the units of the images, default .3 (the paper's toy study, figure 2); its
            standard deviation is eps / sqrt(3)
    copies  N, default 10 (paper)
    keep_clean  count the image itself as one more copy; default False
    clip    clip the copies to [0, 1]; default False

    Cost: `copies` forward and backward passes, one more with `keep_clean`.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, figure 2.

    Raises:
        ValueError: eps below 0, or copies below 1.
    """

    eps: float = 0.3
    copies: int = 10
    keep_clean: bool = False
    clip: bool = False

    def __post_init__(self) -> None:
        _check("eps", self.eps, self.copies)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        def noise(draws: Draws) -> Images:
            return self.eps * (2 * draws.uniform(batch.x.shape[1:], batch.x.dtype) - 1)

        return _on_copies(model, batch, noise, _UNIFORM, self.copies, self.keep_clean, self.clip)


def _check(name: str, size: float, copies: int) -> None:
    if not 0 <= size < float("inf") or copies < 1:
        raise ValueError(f"noisy copies need {name} >= 0, and copies >= 1; got {size} and {copies}")


def _on_copies(
    model: nn.Module,
    batch: Batch,
    noise: Callable[[Draws], Images],
    purpose: int,
    copies: int,
    keep_clean: bool,
    clip: bool,
) -> Tensor:
    draws = Draws.start(batch.seeds, len(batch), batch.x.device).split(purpose)
    noisy = (batch.x + noise(draws.split(copy)) for copy in range(copies))
    losses = [cross_entropy(logits_of(model, x.clamp(0, 1) if clip else x), batch.y).mean() for x in noisy]
    if keep_clean:
        losses.append(cross_entropy(logits_of(model, batch.x), batch.y).mean())
    return torch.stack(losses).mean()

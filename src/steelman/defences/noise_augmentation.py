"""Training on noisy copies."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.game import GameWrapper
from steelman.defences.objective import Objective
from steelman.defences.plain import Plain
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.norms import column
from steelman.randomness import Draws
from steelman.ranges import Count, Factor, Fraction
from steelman.types import Batch, Images


class _OnNoisyCopies(Objective):
    """The mean cross-entropy on copies of each image, each with noise of its own."""

    purpose: ClassVar[int]
    """For `Draws.split`."""
    copies: int
    keep_clean: bool
    clip: bool

    @abstractmethod
    def noise(self, draws: Draws, like: Images) -> Images: ...

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        draws = Draws.start(batch.seeds, len(batch), batch.x.device).split(self.purpose)
        noisy = (batch.x + self.noise(draws.split(copy), batch.x) for copy in range(self.copies))
        losses = [cross_entropy(logits_of(model, x.clamp(0, 1) if self.clip else x), batch.y).mean() for x in noisy]
        if self.keep_clean:
            losses.append(cross_entropy(logits_of(model, batch.x), batch.y).mean())
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class GaussianAugmentation(_OnNoisyCopies):
    """Gaussian data augmentation: cross-entropy on copies of each image with normal noise.

    (1/N) sum_i CE(x + d_i, y), d_i ~ N(0, sigma^2 I), new in each epoch.

    sigma   standard deviation in the units of the images, default .3 (paper, MNIST; CIFAR-10: .05)
    copies  N, default 10 (paper); one copy has the same expectation at a tenth of the cost
    keep_clean  count the image itself as one more copy (authors' code); default False (paper)
    clip    clip the copies to [0, 1]; default False (authors' code; not in the paper)

    Paper and code differ: the code draws the copies once, before training, which here is the preparation `NoisyCopies`
    and `Plain`. With a bounded ReLU (`bounded_relu = 1.0` in a recipe's network) it is the paper's whole defence.
    For small sigma it adds the penalty (sigma^2 / 2) tr(Hessian of CE at x), which smooths the network on average over
    directions, not in the worst one. Each copy is a pass of its own: on a CPU one pass over all copies takes 1.3 times
    as long on a convolutional network, and .8 times on a perceptron; `micro_batch` saves memory.

    Cost: `copies` forward and backward passes, one more with `keep_clean`.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, Gaussian data augmentation; Chris Bishop, "Training with noise is equivalent to Tikhonov
    regularization", Neural Computation 1995.
    """

    purpose: ClassVar[int] = 301

    sigma: Factor = 0.3
    copies: Count = 10
    keep_clean: bool = False
    clip: bool = False

    def noise(self, draws: Draws, like: Images) -> Images:
        return self.sigma * draws.normal(like.shape[1:], like.dtype)


@dataclass(frozen=True)
class UniformAugmentation(_OnNoisyCopies):
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
    """

    purpose: ClassVar[int] = 302

    eps: Factor = 0.3
    copies: Count = 10
    keep_clean: bool = False
    clip: bool = False

    def noise(self, draws: Draws, like: Images) -> Images:
        return self.eps * (2 * draws.uniform(like.shape[1:], like.dtype) - 1)


@dataclass(frozen=True)
class NoiseMixture(GameWrapper[Objective], Objective):
    """Training on a mixture of clean and noisy images: some get normal noise of one of several deviations.

    x' = clip(x + c s z), z ~ N(0, I), where for each image c is 1 with probability `share` and else 0, and s is one of
    `sigmas` with equal chances; all three are new in each epoch. The objective is called with x' in place of x.

    objective  what is minimised on them, default Plain(): cross-entropy. TisODE has SteadyState()
    sigmas     standard deviations in the units of the images, default 50/255, 75/255 and 100/255 (code, MNIST). Ours:
               15/255, 25/255 and 35/255 for SVHN, 10/255, 15/255 and 25/255 for ImageNet, the deviations that TisODE's
               tables test
    share      of the images that get noise, default .5 (code)
    clip       clip them to [0, 1], default True (code)

    `GaussianAugmentation` has one deviation, no clean images by chance, and several copies.

    Cost: the objective's.
    Reference: Hanshu Yan, Jiawei Du, Vincent Y. F. Tan and Jiashi Feng, "On robustness of neural ordinary differential
    equations", ICLR 2020, section 3.

    Raises:
        ValueError: no deviation.
    """

    objective: Objective = Plain()
    sigmas: tuple[Annotated[float, Gt(0)], ...] = (50 / 255, 75 / 255, 100 / 255)
    share: Fraction = 0.5
    clip: bool = True

    def __post_init__(self) -> None:
        if not self.sigmas:
            raise ValueError("NoiseMixture needs at least one deviation in sigmas, such as (0.2,)")

    def setup(self, model: nn.Module, data: Dataset) -> "NoiseMixture":
        return replace(self, objective=self.objective.setup(model, data))

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.objective(model, replace(batch, x=self.noisy(batch)))

    def noisy(self, batch: Batch) -> Images:
        """The images x'."""
        draws = Draws.start(batch.seeds, len(batch), batch.x.device).split(303)
        chosen, which = draws.split(0).uniform((2,), torch.float64).unbind(1)
        sigmas = torch.tensor(self.sigmas, dtype=batch.x.dtype, device=batch.x.device)
        size = torch.where(chosen < self.share, sigmas[(which * len(sigmas)).long()], 0)
        x = batch.x + draws.split(1).normal(batch.x.shape[1:], batch.x.dtype) * column(size, batch.x)
        return x.clamp(0, 1) if self.clip else x

"""Fixed layers before a network, so that the whole model takes images in [0, 1].

They hold buffers, not parameters: checkpoints contain them, and no optimiser changes them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.forward import lent

AT_ONCE = 1000
"""Images that `fit` reads at a time."""


@final
class Preprocessed(nn.Module):
    """network(preprocess(x)). An attack on the whole is in pixels, one on `network` alone in the preprocessed space."""

    def __init__(self, preprocess: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.preprocess(x))


def peel(model: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """The inner network of a `Preprocessed` model, and its input for these images; any other model and images as they
    are."""
    if isinstance(model, Preprocessed):
        with torch.no_grad():
            return model.network, model.preprocess(lent(x))
    return model, x


class Preprocess(nn.Module, ABC):
    """A layer whose buffers, where it has any, are measured on a training set by `fit`, or loaded from a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.fitted = False
        self.register_load_state_dict_post_hook(_check_statistics)

    @abstractmethod
    def fit(self, dataset: Dataset) -> "Preprocess":
        """Measure the buffers on a training set, in float64; returns the layer itself."""

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to the network's input."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.fitted:
            raise ValueError(f"{type(self).__name__} has no statistics yet: call fit(dataset) or load a checkpoint")
        return self.transform(x)

    def unknown(self, name: str, *shape: int) -> None:
        """Declare a statistic, which is NaN until it is measured."""
        self.register_buffer(name, torch.full(shape, torch.nan))

    def measured(self, **values: Tensor) -> None:
        """Set all statistics."""
        for name, value in values.items():
            self.get_buffer(name).copy_(value)
        self.fitted = True


def _check_statistics(layer: nn.Module, _: object) -> None:
    assert isinstance(layer, Preprocess)
    layer.fitted = not any(bool(buffer.isnan().any()) for buffer in layer.buffers())


@final
class Normalise(Preprocess):
    """(x - mean) / std, channel by channel.

    shape  of one image, default (3, 32, 32)
    mean   one number per channel, in [0, 1] units; default: `fit` measures both on the training set
    std    likewise
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (3, 32, 32),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.unknown("mean", shape[0], 1, 1)
        self.unknown("std", shape[0], 1, 1)
        if mean is None and std is None:
            return
        if mean is None or std is None or len(mean) != shape[0] or len(std) != shape[0]:
            raise ValueError(f"Normalise needs mean and std, {shape[0]} numbers each (channels); got {mean} and {std}")
        if not all(0 < each < math.inf for each in std) or not all(map(math.isfinite, mean)):
            raise ValueError(f"Normalise needs finite numbers and std > 0; got {mean} and {std}")
        self.measured(mean=torch.tensor(mean).reshape(-1, 1, 1), std=torch.tensor(std).reshape(-1, 1, 1))

    def fit(self, dataset: Dataset) -> "Normalise":
        mean = mean_image(dataset).mean((1, 2), keepdim=True)
        spread = torch.zeros_like(mean)
        for batch in dataset.in_order(AT_ONCE):
            spread += (batch.x.double() - mean).square().sum((0, 2, 3)).reshape(spread.shape)
        count = len(dataset) * dataset.shape[1] * dataset.shape[2]
        self.measured(mean=mean, std=(spread / count).sqrt())
        return self

    def transform(self, x: Tensor) -> Tensor:
        return (x - self.get_buffer("mean")) / self.get_buffer("std")


@final
class StandardiseImage(Preprocess):
    """Each image with mean 0 and deviation 1: (x - mean(x)) / max(std(x), 1/sqrt(n)) over its n pixels and channels.

    TensorFlow's `per_image_standardization`; there is nothing to fit. The lower bound keeps flat images flat.

    scale  factor of the pixels, applied first, default 1 (MMA); Madry's pixels go up to 255. It matters for nearly flat
           images alone

    MMA's std divides by n - 1, TensorFlow's and ours by n.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"StandardiseImage needs scale > 0; got {scale}")
        self.scale = scale
        self.fitted = True

    def fit(self, dataset: Dataset) -> "StandardiseImage":
        return self

    def transform(self, x: Tensor) -> Tensor:
        x = self.scale * x
        variance, mean = torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True)
        return (x - mean) / variance.clamp(min=1 / x[0].numel()).sqrt()


@final
class SubtractMean(Preprocess):
    """x - the mean image of the training set, pixel by pixel, in [0, 1] units.

    The space in which the Deep Defense paper measures on MNIST: MatConvNet subtracts the mean image and nothing else.

    shape  of one image, default (1, 28, 28)
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28)) -> None:
        super().__init__()
        self.unknown("mean", *shape)

    def fit(self, dataset: Dataset) -> "SubtractMean":
        self.measured(mean=mean_image(dataset))
        return self

    def transform(self, x: Tensor) -> Tensor:
        return x - self.get_buffer("mean")


@final
class Whiten(Preprocess):
    """Subtracts the mean image, normalises each image's contrast and whitens (as ZCA): Deep Defense's CIFAR-10 space.

    With x in [0, 255] and the training set's mean image m:
        z = (x - m) - mean(x - m);  n = std(z);  z = mean(n) z / max(n, contrast_floor), per image
        W = sum(z z') / total = V diag(d) V';  e = sqrt(mean(d))
        out = V diag(e / max(sqrt(d), root_floor)) V' z / 255

    shape           of one image, default (3, 32, 32)
    contrast_floor  default 40 (MatConvNet)
    root_floor      default 10 (MatConvNet)
    total           divisor of the sum over the training set, as a multiple of its size; default 1.2: MatConvNet divides
                    the sum over CIFAR's 50,000 training images by 60,000, the size of both splits

    MatConvNet takes the mean of n over training and test images; we take it over the training images only.

    Cost: `fit` reads the set twice and decomposes a square matrix with a row per pixel and channel, in float64: 150 MB
    and about a minute for CIFAR-10. Each image then costs one product with that matrix.
    Reference: MatConvNet, examples/cifar/cnn_cifar.m; Coates, Ng and Lee, "An analysis of single-layer networks in
    unsupervised feature learning", AISTATS 2011.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (3, 32, 32),
        contrast_floor: float = 40.0,
        root_floor: float = 10.0,
        total: float = 1.2,
    ) -> None:
        super().__init__()
        if min(contrast_floor, root_floor, total) <= 0:
            raise ValueError(
                f"Whiten needs contrast_floor, root_floor and total > 0; got {contrast_floor}, {root_floor} and {total}"
            )
        self.contrast_floor, self.root_floor, self.total = contrast_floor, root_floor, total
        size = torch.Size(shape).numel()
        self.unknown("mean", *shape)
        self.unknown("contrast")
        self.unknown("matrix", size, size)

    def fit(self, dataset: Dataset) -> "Whiten":
        mean = 255 * mean_image(dataset)
        size = mean.numel()
        contrasts = torch.zeros((), dtype=torch.float64, device=mean.device)
        products = torch.zeros(size, size, dtype=torch.float64, device=mean.device)
        for batch in dataset.in_order(AT_ONCE):
            z, deviation = self._flatten(255 * batch.x.double() - mean)
            z = z / deviation.clamp(min=self.contrast_floor)
            contrasts += deviation.sum()
            products.addmm_(z.T, z)
        contrast = contrasts / len(dataset)
        d, v = torch.linalg.eigh(products * contrast**2 / (self.total * len(dataset)))
        root = d.clamp(min=0).sqrt()  # rounding may make an eigenvalue slightly negative
        matrix = (v * (d.mean().sqrt() / root.clamp(min=self.root_floor))) @ v.T
        self.measured(mean=mean, contrast=contrast, matrix=matrix)
        return self

    def transform(self, x: Tensor) -> Tensor:
        z, deviation = self._flatten(255 * x - self.get_buffer("mean"))
        z = z * (self.get_buffer("contrast") / deviation.clamp(min=self.contrast_floor))
        return (z @ self.get_buffer("matrix") / 255).reshape(x.shape)  # the matrix is symmetric

    def _flatten(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images as rows with mean 0, and their standard deviations, shape (batch, 1), with a gradient at 0."""
        z = x.flatten(1)
        z = z - z.mean(1, keepdim=True)
        return z, z.var(1, keepdim=True).clamp(min=1e-12).sqrt()


def mean_image(dataset: Dataset) -> Tensor:
    """The mean of all images, in float64, on the data set's device."""
    total = torch.zeros(dataset.shape, dtype=torch.float64)
    for batch in dataset.in_order(AT_ONCE):
        total = total.to(batch.x.device) + batch.x.double().sum(0)
    return total / len(dataset)

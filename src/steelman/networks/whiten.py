"""The preprocessing of MatConvNet's CIFAR-10 example."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from steelman.data.dataset import Dataset
from steelman.networks.preprocess import AT_ONCE, Preprocess, mean_image


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

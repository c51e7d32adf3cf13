"""The distance of an image from the training set."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from steelman.data.dataset import Dataset
from steelman.evaluation.probes.probe import Probe
from steelman.ranges import Count
from steelman.types import Images, Labels, Model, PerImage, Seeds


@final
@dataclass(frozen=True)
class TrainingSetDistance(Probe):
    """The L2 distance from the attacked image to the nearest training image: min_j |x' - x_j|_2, exactly.

    Most training images are excluded by |x'|^2 + |x_j|^2 - 2 <x', x_j>, a matrix product. It loses digits where images
    are near each other, so that only those are excluded that are further by more than its rounding error; for the
    others, squared differences are summed in double precision. `setup` reads the training set, which is in pixels.

    The authors' code averages squares divided by |x|_2, over the images that were fooled, and calls it a distance: that
    is a measure of this column.

    block  training images at a time (default 1024, the fastest of those tried). Memory holds them, and one number for
           each of them and each attacked image, so it does not grow with the training set

    Cost: no pass; the training set is read once per call, and 2 batch * images * pixels operations.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, table 2.

    Raises:
        ValueError: called before `setup`; an empty training set, or one of other shapes; attacked images that are not
            finite.
    """

    block: Count = 1024
    training: Dataset | None = field(default=None, init=False, repr=False, compare=False)

    def setup(self, training_images: Callable[[], Dataset]) -> "TrainingSetDistance":
        probe = replace(self)
        object.__setattr__(probe, "training", training_images())
        return probe

    def __call__(self, model: Model, x: Images, y: Labels, x_adv: Images, seeds: Seeds) -> PerImage:
        if self.training is None:
            raise ValueError(f"{self} needs the training images: run {self}.setup(lambda: training_set)")
        if len(self.training) == 0 or self.training.shape != tuple(x_adv.shape[1:]):
            raise ValueError(
                f"{self} compares images of shape {tuple(x_adv.shape[1:])} with {len(self.training)} training images "
                f"of shape {tuple(self.training.shape)}; it needs at least one, of the same shape"
            )
        if not bool(x_adv.isfinite().all()):
            raise ValueError(f"{self} was given images with NaN or infinite pixels")
        # TF32 and bfloat16 products, which a user may have allowed, round more than `_approach` allows for.
        whole = torch.get_float32_matmul_precision() == "highest" and x_adv.dtype != torch.float64
        images = x_adv.flatten(1).to(torch.float32 if whole else torch.float64)
        nearest = torch.full((len(x_adv),), torch.inf, dtype=torch.float64, device=x_adv.device)
        for batch in self.training.in_order(self.block):
            _approach(nearest, images, batch.x.flatten(1).to(images))
        return nearest.sqrt()


def _approach(nearest: PerImage, images: Tensor, others: Tensor) -> None:
    """Lower the squared distances `nearest` to those of `others`, flat, where they are nearer."""
    square, other_square = images.square().sum(1), others.square().sum(1)
    about = torch.addmm(square[:, None] + other_square, images, others.T, alpha=-2)
    # A sum of n products is off by at most n eps / 2 times that of their sizes, in any order, so the whole by as much
    # times (|a| + |b|)^2; the few operations after the sums are the 8.
    most = (square.sqrt() + other_square.amax().sqrt()).square()
    rounding = (images.shape[1] / 2 + 8) * torch.finfo(images.dtype).eps * most
    bound = torch.minimum(nearest, (about.amin(1) + rounding).double())
    row, other = torch.where((about - rounding[:, None]).double() <= bound[:, None])
    for each in torch.arange(len(row), device=row.device).split(len(others)):
        exact = (images[row[each]].double() - others[other[each]].double()).square().sum(1)
        nearest.scatter_reduce_(0, row[each], exact, "amin")

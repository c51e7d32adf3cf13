"""Images made of patches of other images."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.types import Images

AT_ONCE = 2**22
"""Distances in memory."""

MIXED, TEMPERATURE = 100, 0.3
"""How many patches the stand-in mixes, and by which share of their mean distance squared (ours)."""


class Quilting(nn.Module):
    """Each patch of an image replaced by one of its nearest among patches of training images, and joined.

    Patches of `size` x `size` stand `size` - `overlap` apart, the last ones flush with the border. Each becomes one of
    its `neighbours` nearest in L2, drawn uniformly for each image and call. Where two overlap, they meet along the path
    on which they differ least (minimum error boundary cut), from the top down and from left to right.

    size        default 5 (paper)
    overlap     default 2 (paper)
    neighbours  default 10 (the attack's code; 1 in the paper's)
    patches     of training images, at random places with a fixed seed, default 20,000; the paper has 1,000,000
    cut         False: a later patch covers the earlier one. Default True
    shape       of the images; a recipe's network gives it

    It is fitted on the training images (`fit`), or loaded from a checkpoint.

    It has no gradient. `stand_in`, which `Filtered` uses by `BPDA`, is smooth: each patch becomes the mean of the 100
    nearest ones, weighted by softmax(-d / (.3 mean d)), d their distances squared, and overlaps are averaged. The
    papers' attacks pass the identity, which overestimates robustness: behind 5,000 patches of MNIST, PGD of 40 steps in
    L2 3 leaves 26 % of 20 images so, and 6.5 % through the stand-in.

    Broken by: PGD in L2 through that stand-in, with or without `EOT`.

    Cost: distances from each patch of an image to all patches; twice with a gradient.
    Reference: Chuan Guo, Mayank Rana, Moustapha Cisse and Laurens van der Maaten, "Countering adversarial images using
    input transformations", ICLR 2018, section 4.4; Alexei A. Efros and William T. Freeman, "Image quilting for texture
    synthesis and transfer", SIGGRAPH 2001; broken in Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated
    gradients give a false sense of security", ICML 2018, section 5.2.

    Raises:
        ValueError: not 0 <= overlap < size; neighbours or patches below 1, or fewer patches than neighbours; images
        smaller
            than a patch, or with other channels than those of the patches; it is not fitted.
    """

    random: ClassVar[bool] = True

    def __init__(
        self,
        size: int = 5,
        overlap: int = 2,
        neighbours: int = 10,
        patches: int = 20_000,
        cut: bool = True,
        *,
        shape: Sequence[int] = (1, 28, 28),
    ) -> None:
        super().__init__()
        if not 0 <= overlap < size or 2 * overlap > size:
            raise ValueError(f"Quilting needs an overlap from 0 to half of size; got {overlap} of {size}")
        if not 1 <= neighbours <= patches:
            raise ValueError(f"Quilting needs 1 <= neighbours <= patches; got {neighbours} and {patches}")
        self.size, self.overlap, self.neighbours, self.cut = size, overlap, neighbours, cut
        self.fitted = False
        self.register_buffer("patches", torch.full((patches, shape[0], size, size), torch.nan))
        self.register_load_state_dict_post_hook(_check_fitted)

    def fit(self, dataset: Dataset, seed: int = 0) -> "Quilting":
        """Cut the patches from random places of random images; returns the filter itself."""
        patches = self.get_buffer("patches")
        if dataset.shape[0] != patches.shape[1] or min(dataset.shape[1:]) < self.size:
            raise ValueError(
                f"Quilting has patches of {patches.shape[1]} channels and {self.size} pixels a side; the training "
                f"images are {tuple(dataset.shape)}"
            )
        draw = torch.Generator().manual_seed(seed)
        images = torch.randint(len(dataset), (len(patches),), generator=draw).sort().values
        rows, columns = (
            torch.randint(side - self.size + 1, (len(patches),), generator=draw) for side in dataset.shape[1:]
        )
        within = torch.arange(self.size)
        for part in torch.arange(len(patches)).split(1000):
            (batch,) = dataset.batches([images[part]])
            row, column = (rows[part, None] + within)[:, :, None], (columns[part, None] + within)[:, None]
            place = torch.arange(len(part))[:, None, None]
            patches[part] = batch.x.to(patches)[place, :, row, column].movedim(-1, 1)
        self.fitted = True
        return self

    def out_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The images' own."""
        return tuple(shape)

    def forward(self, x: Images) -> Images:
        patches = self._ready(x)
        made = torch.zeros_like(x)
        rows, columns = (self._places(side) for side in x.shape[2:])
        for at, row in enumerate(rows):
            above = rows[at - 1] + self.size - row if at else 0
            for place, column in enumerate(columns):
                left = columns[place - 1] + self.size - column if place else 0
                here = (..., slice(row, row + self.size), slice(column, column + self.size))
                new, old = self._drawn(x[here], patches), made[here]
                made[here] = torch.where(self._new(new, old, above, left), new, old)
        return made

    def stand_in(self, x: Images) -> Images:
        """The image of mean patches, as a continuous function of it but where another patch comes among the nearest."""
        patches = self._ready(x).flatten(1)
        made, times = torch.zeros_like(x), torch.zeros_like(x)
        for row in self._places(x.shape[2]):
            for column in self._places(x.shape[3]):
                here = (..., slice(row, row + self.size), slice(column, column + self.size))
                near = patches[self._nearest(x[here].detach(), patches, min(MIXED, len(patches)))].to(x)
                apart = (near - x[here].flatten(1)[:, None]).square().sum(2)
                unit = (TEMPERATURE * apart.mean(1, keepdim=True)).clamp(min=torch.finfo(x.dtype).eps)
                mean = ((-apart / unit).softmax(1)[:, None] @ near)[:, 0]
                made[here] = made[here] + mean.view_as(x[here])
                times[here] += 1
        return made / times

    def _ready(self, x: Images) -> Tensor:
        """The patches; ValueError for images that they do not fit."""
        patches = self.get_buffer("patches")
        if not self.fitted:
            raise ValueError("Quilting has no patches yet: call fit(dataset) or load a checkpoint")
        if x.ndim != 4 or x.shape[1] != patches.shape[1] or min(x.shape[2:]) < self.size:
            raise ValueError(
                f"Quilting has patches of {patches.shape[1]} channels and {self.size} pixels a side; the images are "
                f"{tuple(x.shape[1:])}"
            )
        return patches

    def _places(self, side: int) -> list[int]:
        """Where patches begin; the last one ends with the image."""
        places = list(range(0, side - self.size + 1, self.size - self.overlap))
        return places if places[-1] == side - self.size else [*places, side - self.size]

    def _drawn(self, wanted: Tensor, patches: Tensor) -> Tensor:
        """For each image one of the patches that are nearest to what it has."""
        nearest = self._nearest(wanted, patches.flatten(1), self.neighbours)
        choice = torch.randint(self.neighbours, (len(wanted), 1), device=wanted.device)
        return patches[nearest.gather(1, choice)[:, 0]].to(wanted)

    def _nearest(self, wanted: Tensor, flat: Tensor, count: int) -> Tensor:
        """The places of so many patches, the nearest first."""
        given = wanted.flatten(1).to(flat)
        parts = given.split(max(AT_ONCE // len(flat), 1))
        return torch.cat([torch.cdist(part, flat).topk(count, largest=False).indices for part in parts])

    def _new(self, new: Tensor, old: Tensor, above: int, left: int) -> Tensor:
        """Where the new patch is seen, (batch, 1, size, size): beyond the cuts through its overlaps."""
        seen = torch.ones(len(new), 1, self.size, self.size, dtype=torch.bool, device=new.device)
        if not self.cut:
            return seen
        apart = (new - old).square().sum(1)
        if left:
            seen[..., :left] &= _beyond(apart[:, :, :left])[:, None]
        if above:
            seen[..., :above, :] &= _beyond(apart[:, :above].transpose(1, 2))[:, None].transpose(2, 3)
        return seen

    def extra_repr(self) -> str:
        return f"size={self.size}, overlap={self.overlap}, neighbours={self.neighbours}, cut={self.cut}"


def _beyond(apart: Tensor) -> Tensor:
    """Which places are on the path of least sum from the first row to the last, or to the right of it.

    apart  (batch, rows, columns)
    """
    _, rows, columns = apart.shape
    total = [apart[:, 0]]
    for row in range(1, rows):
        total.append(apart[:, row] + _least_near(total[-1])[0])
    place = total[-1].argmin(1)
    found = [place]
    for row in range(rows - 2, -1, -1):
        place = _least_near(total[row])[1].gather(1, place[:, None])[:, 0]
        found.append(place)
    path = torch.stack(found[::-1], 1)
    return torch.arange(columns, device=apart.device) >= path[..., None]


def _least_near(total: Tensor) -> tuple[Tensor, Tensor]:
    """The least of each place and its two neighbours, and where it is."""
    far = torch.full_like(total[:, :1], torch.inf)
    padded = torch.cat([far, total, far], 1)
    least, which = padded.unfold(1, 3, 1).min(2)
    return least, torch.arange(total.shape[1], device=total.device) + which - 1


def _check_fitted(layer: Any, _: object) -> None:
    layer.fitted = not bool(layer.get_buffer("patches").isnan().any())

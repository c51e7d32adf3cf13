"""Random variations of training images, the same on whole batches and image by image."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch.nn.functional import pad

from steelman.randomness import Draws
from steelman.ranges import Checked, Natural
from steelman.types import Batch

# Purposes for `Draws.split`: no two uses of an image's seed may share their numbers.
_CROP, _FLIP = 0xC409, 0xF119


@dataclass(frozen=True)
class Augmentation(Checked, ABC):
    """A random change of a batch, drawn from `batch.seeds` (without them from torch's generator)."""

    @abstractmethod
    def __call__(self, batch: Batch) -> Batch: ...


def augmented(batch: Batch, changes: Iterable[Augmentation]) -> Batch:
    """The batch after all of these changes; attacked versions of an image are changed as the image itself is."""
    for change in changes:
        new = change(batch)
        if batch.crafted is not None:
            versions = [change(replace(batch, x=each, crafted=None)).x for each in batch.crafted.unbind(1)]
            new = replace(new, crafted=torch.stack(versions, 1))
        batch = new
    return batch


@final
@dataclass(frozen=True)
class PadCrop(Augmentation):
    """Pad each image on all sides, and crop its size at a random place.

    pad   pixels, >= 0; default 4 (the usual recipe for CIFAR-10)
    mode  "zeros" (default; black) or "reflect"

    Reference: He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.
    """

    pad: Natural = 4
    mode: Literal["zeros", "reflect"] = "zeros"

    def __call__(self, batch: Batch) -> Batch:
        size, (height, width) = self.pad, batch.x.shape[-2:]
        if self.mode == "reflect" and size >= min(height, width):
            raise ValueError(f"PadCrop cannot reflect {size} pixels of images of {height}x{width}")
        wide = pad(batch.x, (size, size, size, size), "reflect" if self.mode == "reflect" else "constant")
        draws = Draws.start(batch.seeds, len(batch), batch.x.device).split(_CROP)
        corner = (draws.uniform((2,), torch.float64) * (2 * size + 1)).long()
        rows = corner[:, :1] + torch.arange(height, device=wide.device)
        columns = corner[:, 1:] + torch.arange(width, device=wide.device)
        places = (rows[:, :, None] * wide.shape[-1] + columns[:, None, :]).flatten(1)
        x = wide.flatten(2).gather(2, places[:, None].expand(-1, wide.shape[1], -1))
        return replace(batch, x=x.reshape(batch.x.shape))


@final
@dataclass(frozen=True)
class Flip(Augmentation):
    """Swap left and right, with probability 1/2."""

    def __call__(self, batch: Batch) -> Batch:
        draws = Draws.start(batch.seeds, len(batch), batch.x.device).split(_FLIP)
        flipped = draws.uniform((1, 1, 1)) < 0.5
        return replace(batch, x=torch.where(flipped, batch.x.flip(-1), batch.x))

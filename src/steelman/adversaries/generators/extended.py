"""Images extended by their border, for networks that take some sizes only, and cut out again."""

import torch.nn.functional as F
from torch import Tensor


def extended(images: Tensor, least: int, part: int = 1) -> Tensor:
    """Images whose sides are multiples of `part`, at least `least`: their border repeated, on all sides alike."""
    more = [max(least, -(-side // part) * part) - side for side in images.shape[:1:-1]]
    if not any(more):
        return images
    return F.pad(images, [each for side in more for each in (side // 2, side - side // 2)], mode="replicate")


def middle(images: Tensor, like: Tensor) -> Tensor:
    """What stands where `like` stood before it was extended."""
    for axis in (2, 3):
        size = like.shape[axis]
        images = images.narrow(axis, (images.shape[axis] - size) // 2, size)
    return images

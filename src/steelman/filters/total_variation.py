"""Images from some of their pixels, by the smallest total variation."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.types import Images


class TotalVariation(nn.Module):
    """Drops pixels at random, and fills them in: min_z 1/2 sum_i w_i (z_i - x_i)^2 + weight TV(z).

    w_i = 1 with probability `keep`, one draw per pixel for all channels, anew for each image and call. TV is the sum
    over pixels and channels of |z_right - z| + |z_down - z|, or of the root of their squares.

    keep       default .5 (paper)
    weight     default .03 (paper, where it is called lambda)
    steps      of the solver, default 100
    isotropic  default False, as in the attack's code; the paper's code has True

    Solved by the method of Chambolle and Pock with steps 1/sqrt(8) for all images at once, where the paper's code has
    split Bregman with 100 rounds. That code drops each channel by itself, and takes a pixel that is 0 as kept.

    Its gradient is that of the identity (`BPDA`), as in the papers' attacks.

    Broken by: PGD in L2 through the identity, with or without `EOT`.
    Cost: `steps` passes over the images.
    Reference: Chuan Guo, Mayank Rana, Moustapha Cisse and Laurens van der Maaten, "Countering adversarial images using
    input transformations", ICLR 2018, section 4.3; Antonin Chambolle and Thomas Pock, "A first-order primal-dual
    algorithm for convex problems with applications to imaging", JMIV 2011; broken in Anish Athalye, Nicholas Carlini
    and David Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, section 5.2.

    Raises:
        ValueError: keep is not in (0, 1], weight is below 0, steps below 1, or a mask keeps nothing.
    """

    random: ClassVar[bool] = True

    def __init__(self, keep: float = 0.5, weight: float = 0.03, steps: int = 100, isotropic: bool = False) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise ValueError(f"TotalVariation needs keep above 0 and up to 1; got {keep}")
        if not weight >= 0 or steps < 1:
            raise ValueError(f"TotalVariation needs weight >= 0 and steps >= 1; got {weight} and {steps}")
        self.keep, self.weight, self.steps, self.isotropic = keep, weight, steps, isotropic

    def forward(self, x: Images) -> Images:
        if x.ndim != 4:
            raise ValueError(f"TotalVariation needs images (batch, channels, height, width); got {tuple(x.shape)}")
        kept = torch.rand(len(x), 1, *x.shape[2:], device=x.device) < self.keep
        none = ~kept.flatten(1).any(1)
        kept[none] = True  # of an image of few pixels
        return self.minimised(x, kept)

    def minimised(self, x: Images, kept: Tensor) -> Images:
        """The minimum for these pixels, (batch, 1, height, width)."""
        if not bool(kept.flatten(1).any(1).all()):
            raise ValueError("the mask of an image keeps no pixel, so that there is nothing to fill in from")
        w, step = kept.to(x), 8**-0.5
        z = ahead = w * x
        slopes = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
        for _ in range(self.steps):
            slopes = self._limited(slopes + step * _differences(ahead))
            after = (z - step * _adjoint(slopes) + step * w * x) / (1 + step * w)
            ahead, z = 2 * after - z, after
        return z

    def _limited(self, slopes: Tensor) -> Tensor:
        if not self.isotropic:
            return slopes.clamp(-self.weight, self.weight)
        if self.weight == 0:
            return torch.zeros_like(slopes)
        return slopes / (slopes.norm(dim=0) / self.weight).clamp(min=1)

    def extra_repr(self) -> str:
        return f"keep={self.keep:g}, weight={self.weight:g}, steps={self.steps}, isotropic={self.isotropic}"


def _differences(x: Tensor) -> Tensor:
    """To the pixel below and to that at the right; 0 at the last ones."""
    found = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
    found[0, ..., :-1, :] = x[..., 1:, :] - x[..., :-1, :]
    found[1, ..., :-1] = x[..., 1:] - x[..., :-1]
    return found


def _adjoint(slopes: Tensor) -> Tensor:
    """The adjoint of `_differences`."""
    down, right = slopes
    found = torch.zeros_like(down)
    found[..., 1:, :] += down[..., :-1, :]
    found[..., :-1, :] -= down[..., :-1, :]
    found[..., 1:] += right[..., :-1]
    found[..., :-1] -= right[..., :-1]
    return found

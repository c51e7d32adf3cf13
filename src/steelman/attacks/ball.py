"""Ball and box around a batch of images, and steps within them: what bounded attacks share."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steelman.norms import Linf, Norm, inward, per_image
from steelman.randomness import Draws
from steelman.types import Box, Images, Indices, Radius


@dataclass(frozen=True)
class Ball:
    """All images within `eps` of `x` and within the box; rows that leave are dropped with `ball[which]`."""

    x: Images
    eps: Tensor
    """Of shape (batch, 1, ..., 1), so that it broadcasts against images."""
    norm: Norm
    box: Box | None
    bounds: tuple[Images, Images] | None
    """Linf only: lowest and highest images of ball and box."""

    @staticmethod
    def around(x: Images, eps: Radius, norm: Norm, box: Box | None) -> "Ball":
        bounds = Linf.bounds(x, eps, box) if norm is Linf else None
        return Ball(x, per_image(eps, x).expand(len(x), *[1] * (x.ndim - 1)), norm, box, bounds)

    def __getitem__(self, which: Indices) -> "Ball":
        bounds = self.bounds and (self.bounds[0][which], self.bounds[1][which])
        return replace(self, x=self.x[which], eps=self.eps[which], bounds=bounds)

    def sample(self, draws: Draws) -> Images:
        """Uniform in the ball, then clipped to the box."""
        start = self.x + self.norm.sample(self.x, self.eps.flatten(), draws)
        return start if self.box is None else start.clamp(*self.box)

    def nearest(self, x: Images) -> Images:
        """The projection onto ball and box."""
        if self.bounds is not None:
            return torch.clamp(x, *self.bounds)
        x = self.x + self.norm.project(x - self.x, self.eps.flatten())
        return x if self.box is None else x.clamp(*self.box)

    def climb(self, x: Images, gradient: Images, step: Tensor) -> Images:
        """A step of length `step`, one number or of shape (batch, 1, ..., 1), from `x` up the gradient."""
        if self.bounds is not None:
            return torch.clamp(x + step * gradient.sign(), *self.bounds)
        return self.nearest(x + step * self.norm.steepest(inward(gradient, x, self.box)))

    def contain(self, x: Images) -> Images:
        """`x` in ball and box to the last bit."""
        return (
            torch.clamp(x, *self.bounds) if self.bounds else self.norm.contain(self.x, x, self.eps.flatten(), self.box)
        )

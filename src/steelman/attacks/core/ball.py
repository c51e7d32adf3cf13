"""Ball and box around a batch of images, and steps within them: what bounded attacks share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.norms import L0, L1, L2, TINY, Linf, Norm, column, inward, per_image
from steelman.randomness import Draws
from steelman.types import Box, Images, Radius, Rows, in_blocks


@dataclass(frozen=True)
class Ball(Rows):
    """All images within `eps` of `x` and within the box."""

    x: Images
    eps: Tensor
    """Of shape (batch, 1, ..., 1); in double precision, since single precision may make it an ulp larger."""
    norm: Norm
    box: Box | None
    bounds: tuple[Images, Images] | None
    """Linf only: lowest and highest images of ball and box."""

    @staticmethod
    def around(x: Images, eps: Radius, norm: Norm, box: Box | None) -> "Ball":
        bounds = Linf.bounds(x, eps, box) if norm is Linf else None
        double = x.new_zeros((), dtype=torch.float64).expand(x.shape)
        return Ball(x, per_image(eps, double).expand(len(x), *[1] * (x.ndim - 1)), norm, box, bounds)

    def sample(self, draws: Draws) -> Images:
        """Uniform in the ball, then clipped to the box. In L0, entries move by up to the width of the box."""
        delta = self.norm.sample(self.x, self.eps.flatten(), draws)
        if self.norm is L0 and self.box is not None:
            delta = delta * (self.box[1] - self.box[0])
        start = self.x + delta
        return start if self.box is None else start.clamp(*self.box)

    def nearest(self, x: Images) -> Images:
        """The projection (L2) onto ball and box."""
        return self._clamp(x) if self.bounds else self.norm.nearest(self.x, x, self.eps, self.box)

    def furthest(self, direction: Images) -> Images:
        """The image of ball and box that is furthest along `direction`, within both to the last bit."""
        if self.bounds is not None:  # twice as far as need be, so that rounding leaves nothing short
            return self._clamp(direction.sign().mul_((2 * self.eps).to(self.x.dtype)).add_(self.x))
        return self.contain(self.norm.furthest(self.x, direction, self.eps, self.box))

    def climb(self, x: Images, gradient: Images, step: Tensor) -> Images:
        """A step of length `step`, of shape (batch, 1, ..., 1), from `x` up the gradient, within ball and box.

        Linf, L2   along `norm.steepest`, then back to the nearest image. Where the box blocks entries, an L2 step is as
                   long without these; they are not left out of it, or the projection would pull them off the box
        L1         towards the image of ball and box that is furthest along the gradient: a few entries, each up to
                   its end, however long the step is
        L0         the steepest entry, then back to the nearest image
        """
        if self.bounds is not None:
            return in_blocks(self._climb_linf, x, gradient, step, *self.bounds)
        return in_blocks(self._climb, x, gradient, step, self.x, self.eps)

    @staticmethod
    def _climb_linf(x: Images, gradient: Images, step: Tensor, low: Images, high: Images) -> Images:
        moved = gradient.sign().mul_(step).add_(x)
        return torch.clamp(moved, low, high, out=moved)

    def _climb(self, x: Images, gradient: Images, step: Tensor, clean: Images, eps: Tensor) -> Images:
        if self.norm is L1:
            path = L1.furthest(clean, gradient, eps, self.box) - x
            return path.mul_((step / column(L1.size(path), x).clamp(min=TINY)).clamp(max=1)).add_(x)
        free = inward(gradient, x, self.box)
        if self.norm is L2:
            length = column(L2.size(free), x)
            if not bool(((length > TINY) & (length < 1 / TINY)).all()):
                # Squares of the tiny gradients of a saturated softmax underflow.
                top = column(Linf.size(gradient), x)
                top += top == 0
                gradient, length = gradient / top, column(L2.size(free / top), x)
            moved = torch.addcmul(x, gradient, (step / length.clamp(min=TINY)).where(length > 0, 0))
        else:
            moved = (self.norm.steepest(free) * step).add_(x)
        return self.norm.nearest(clean, moved, eps, self.box)

    def contain(self, x: Images) -> Images:
        """`x` in ball and box to the last bit."""
        return self._clamp(x) if self.bounds else self.norm.contain(self.x, x, self.eps, self.box)

    def _clamp(self, x: Images) -> Images:
        assert self.bounds is not None
        return torch.clamp(x, *self.bounds)

"""The four norms of this field, each with what an attack needs of it: size, project, steepest, sample, contain.

`Linf`, `L2`, `L1` and `L0` are the only instances. Norms are taken per image over all other dimensions; L0 counts
entries, so a changed RGB pixel may count three. Radii are one number or one per image.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from steelman.randomness import Draws
from steelman.types import Box, Images, PerImage, Radius

TINY = 1e-12


def per_image(value: Radius, like: Tensor, name: str = "eps") -> Tensor:
    """A radius as a tensor that broadcasts against `like`: shape (batch, 1, ..., 1), or () for one number.

    Raises:
        ValueError: negative, not finite, or neither one number nor one per image.
    """
    radius = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if radius.ndim not in (0, 1) or (radius.ndim == 1 and len(radius) != len(like)):
        raise ValueError(
            f"{name} is one number or one per image, of shape ({len(like)},); got shape {tuple(radius.shape)}"
        )
    if not bool(((radius >= 0) & radius.isfinite()).all()):
        raise ValueError(f"{name} must be finite and at least 0; got {value}")
    return radius.reshape(-1, *[1] * (like.ndim - 1)) if radius.ndim else radius


def inward(direction: Images, x: Images, box: Box | None) -> Images:
    """`direction` without the entries of images `x` that stand at the box and would leave it."""
    if box is None:
        return direction
    return direction.masked_fill(((x <= box[0]) & (direction < 0)) | ((x >= box[1]) & (direction > 0)), 0)


def _flat(delta: Tensor) -> Tensor:
    return delta.flatten(1)


class Norm(ABC):
    """A norm of perturbations of shape (batch, ...)."""

    name: str

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name  # copies and pickles are the one instance

    @abstractmethod
    def size(self, delta: Images) -> PerImage:
        """The norm of each perturbation."""

    @abstractmethod
    def project(self, delta: Images, radius: Radius) -> Images:
        """The nearest (L2) point of the ball. Inside points stay as they are."""

    @abstractmethod
    def steepest(self, gradient: Images) -> Images:
        """The unit perturbation with the largest inner product with `gradient`; 0 where the gradient is 0."""

    @abstractmethod
    def sample(self, like: Images, radius: Radius, draws: Draws) -> Images:
        """Uniform in the ball, in the shape and dtype of `like`."""

    def contain(self, x: Images, x_adv: Images, radius: Radius, box: Box | None) -> Images:
        """`x_adv` in box and ball to the last bit: for the numbers returned, size(x_adv - x) <= radius holds exactly.

        Rounding leaves a projected image an ulp or so outside; such images are pulled towards `x`, which must lie in
        the box, until their size, taken in double precision, fits.
        """
        if box is not None:
            x_adv = x_adv.clamp(*box)
        wide = x.double()
        # A sum in another order may come out a few ulps larger, hence the skin.
        bound = per_image(radius, wide) * (1 - 16 * torch.finfo(torch.float64).eps)
        for doubling in range(16):
            delta = x_adv.double() - wide
            size = self.size(delta).reshape(-1, *[1] * (x.ndim - 1))
            if not bool((size > bound).any()):
                return x_adv
            shorter = (1 - 2**doubling * torch.finfo(x.dtype).eps) * bound
            x_adv = torch.where(size > bound, (wide + delta * (shorter / size.clamp(min=TINY))).to(x.dtype), x_adv)
        size = self.size(x_adv.double() - wide).reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(size > bound, x, x_adv)


class _Linf(Norm):
    """max |d_i|."""

    name = "Linf"

    def size(self, delta: Images) -> PerImage:
        return _flat(delta).abs().amax(1)

    def project(self, delta: Images, radius: Radius) -> Images:
        bound = per_image(radius, delta)
        return delta.clamp(-bound, bound)

    def steepest(self, gradient: Images) -> Images:
        return gradient.sign()

    def sample(self, like: Images, radius: Radius, draws: Draws) -> Images:
        return (2 * draws.uniform(like.shape[1:], like.dtype) - 1) * per_image(radius, like)

    def bounds(self, x: Images, radius: Radius, box: Box | None) -> tuple[Images, Images]:
        """The lowest and highest images of ball and box, rounded inwards, so that a clamp is an exact projection."""
        wide, bound = x.double(), per_image(radius, x.double())
        low, high = (wide - bound).to(x.dtype), (wide + bound).to(x.dtype)
        low = torch.where(wide - low.double() > bound, torch.nextafter(low, x), low)
        high = torch.where(high.double() - wide > bound, torch.nextafter(high, x), high)
        if box is not None:
            low, high = low.clamp(*box), high.clamp(*box)
        return low, high

    def contain(self, x: Images, x_adv: Images, radius: Radius, box: Box | None) -> Images:
        return x_adv.clamp(*self.bounds(x, radius, box))


class _L2(Norm):
    """sqrt(sum d_i^2)."""

    name = "L2"

    def size(self, delta: Images) -> PerImage:
        return torch.linalg.vector_norm(_flat(delta), dim=1)

    def project(self, delta: Images, radius: Radius) -> Images:
        size = self.size(delta).reshape(-1, *[1] * (delta.ndim - 1))
        return delta * (per_image(radius, delta) / size.clamp(min=TINY)).clamp(max=1)

    def steepest(self, gradient: Images) -> Images:
        # By the largest entry first: squares of the tiny gradients of a saturated softmax underflow in float32.
        top = _flat(gradient).abs().amax(1).reshape(-1, *[1] * (gradient.ndim - 1))
        scaled = torch.where(top > 0, gradient / torch.where(top > 0, top, torch.ones_like(top)), 0)
        size = self.size(scaled).reshape(top.shape)
        return scaled / size.clamp(min=TINY)

    def sample(self, like: Images, radius: Radius, draws: Draws) -> Images:
        shape = like.shape[1:]
        direction = self.steepest(draws.normal(shape, like.dtype))
        share = draws.split(1).uniform((), like.dtype) ** (1 / max(shape.numel(), 1))
        return direction * share.reshape(-1, *[1] * (like.ndim - 1)) * per_image(radius, like)


class _L1(Norm):
    """sum |d_i|."""

    name = "L1"

    def size(self, delta: Images) -> PerImage:
        return _flat(delta).abs().sum(1)

    def project(self, delta: Images, radius: Radius) -> Images:
        """By sorting (Duchi et al., "Efficient projections onto the l1-ball", ICML 2008, figure 1)."""
        magnitude = _flat(delta).abs()
        bound = per_image(radius, delta).reshape(-1, 1)
        ordered = magnitude.sort(1, descending=True).values
        excess = ordered.cumsum(1) - bound
        rank = torch.arange(1, ordered.shape[1] + 1, dtype=delta.dtype, device=delta.device)
        kept = (ordered * rank > excess).sum(1, keepdim=True).clamp(min=1)
        threshold = excess.gather(1, kept - 1) / kept
        shrunk = delta.sign() * (magnitude - threshold).clamp(min=0).reshape(delta.shape)
        inside = (magnitude.sum(1, keepdim=True) <= bound).reshape(-1, *[1] * (delta.ndim - 1))
        return torch.where(inside, delta, shrunk * (bound > 0).reshape(-1, *[1] * (delta.ndim - 1)))

    def steepest(self, gradient: Images) -> Images:
        flat = _flat(gradient)
        top = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign()).reshape(gradient.shape)

    def sample(self, like: Images, radius: Radius, draws: Draws) -> Images:
        # Exponential spacings, with one more for the slack, are uniform in the corner of the simplex.
        shape = like.shape[1:]
        weight = -torch.log1p(-draws.uniform(shape, like.dtype))
        slack = -torch.log1p(-draws.split(1).uniform((), like.dtype))
        sign = torch.where(draws.split(2).uniform(shape, like.dtype) < 0.5, -1.0, 1.0).to(like.dtype)
        total = (_flat(weight).sum(1) + slack).clamp(min=TINY)
        return sign * weight / total.reshape(-1, *[1] * (like.ndim - 1)) * per_image(radius, like)


class _L0(Norm):
    """The number of entries that are not 0. Its ball is unbounded, so steps and samples have entries within [-1, 1]."""

    name = "L0"

    def size(self, delta: Images) -> PerImage:
        return (_flat(delta) != 0).sum(1).to(delta.dtype)

    def project(self, delta: Images, radius: Radius) -> Images:
        return delta * self._largest(_flat(delta).abs(), radius, delta)

    def steepest(self, gradient: Images) -> Images:
        return L1.steepest(gradient)

    def sample(self, like: Images, radius: Radius, draws: Draws) -> Images:
        shape = like.shape[1:]
        where = self._largest(_flat(draws.split(1).uniform(shape, torch.float64)), radius, like)
        return where * (2 * draws.uniform(shape, like.dtype) - 1)

    def contain(self, x: Images, x_adv: Images, radius: Radius, box: Box | None) -> Images:
        if box is not None:
            x_adv = x_adv.clamp(*box)
        kept = self._largest(_flat(x_adv - x).abs(), radius, x)
        return torch.where(kept.bool(), x_adv, x)

    @staticmethod
    def _largest(score: Tensor, radius: Radius, like: Tensor) -> Tensor:
        """One at the `radius` entries of highest score, 0 elsewhere; of equal scores, the first."""
        order = score.sort(dim=1, descending=True, stable=True).indices
        rank = torch.arange(score.shape[1], device=score.device).expand_as(order)
        chosen = (rank < per_image(radius, like).reshape(-1, 1).floor()).to(like.dtype)
        return (
            torch.zeros(score.shape, dtype=like.dtype, device=score.device)
            .scatter(1, order, chosen)
            .reshape(like.shape)
        )


Linf = _Linf()
L2 = _L2()
L1 = _L1()
L0 = _L0()

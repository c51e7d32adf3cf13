"""The four norms of this field, each with what an attack needs of it: size, project, steepest, sample, contain.

`Linf`, `L2`, `L1` and `L0` are the only instances. Norms are taken per image over all other dimensions; L0 counts
entries, so a changed RGB pixel may count three. Radii are one number or one per image.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from steelman.randomness import Draws
from steelman.types import Box, Images, PerImage, Radius, in_blocks

TINY = 1e-12


def per_image(value: Radius, like: Tensor, name: str = "eps") -> Tensor:
    """A radius as a tensor that broadcasts against `like`: shape (batch, 1, ..., 1), or () for one number.

    A radius of that shape comes from here, and is not checked again.

    Raises:
        ValueError: negative, not finite, or neither one number nor one per image.
    """
    if isinstance(value, Tensor) and value.shape == (len(like), *[1] * (like.ndim - 1)):
        return value.to(like.dtype)
    radius = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if radius.ndim not in (0, 1) or (radius.ndim == 1 and len(radius) != len(like)):
        raise ValueError(
            f"{name} is one number or one per image, of shape ({len(like)},); got shape {tuple(radius.shape)}"
        )
    if not bool(((radius >= 0) & radius.isfinite()).all()):
        raise ValueError(f"{name} must be finite and at least 0; got {value}")
    return radius.reshape(-1, *[1] * (like.ndim - 1)) if radius.ndim else radius


def column(value: Tensor, like: Tensor) -> Tensor:
    """One number per image, in a shape that broadcasts against images."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


def inward(direction: Images, x: Images, box: Box | None) -> Images:
    """`direction` without the entries of images `x` that are at the box and would leave it."""
    if box is None:
        return direction
    # In floats, as masks and `where` are 4 to 30 times slower on a CPU: 1 at the upper end, -1 at the lower one.
    edge = torch.ge(x, box[1], out=torch.empty_like(x)).sub_(torch.le(x, box[0], out=torch.empty_like(x)))
    return torch.addcmul(direction, edge, (edge * direction).clamp_(min=0), value=-1)


def _rows(radius: Radius, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A radius of shape (batch, 1), for flat images, in their type or another."""
    like = like.new_zeros((), dtype=dtype or like.dtype).expand(like.shape)
    return per_image(radius, like).reshape(-1, 1).expand(len(like), 1)


def _room(x: Images, sign: Images, box: Box | None) -> Tensor:
    """How far each entry can move along `sign` within the box, flat; infinite without one."""
    if box is None:
        return torch.full_like(x.flatten(1), torch.inf)
    return ((box[0] + box[1]) / 2 - x).mul_(sign).add_((box[1] - box[0]) / 2).flatten(1)


def _moved(x: Images, sign: Images, amount: Tensor, box: Box | None) -> Images:
    """`x` with its entries moved by `amount` (flat) along `sign`, within the box."""
    moved = amount.reshape(x.shape).mul_(sign).add_(x)
    return moved if box is None else moved.clamp_(*box)


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

    def nearest(self, x: Images, x_adv: Images, radius: Radius, box: Box | None) -> Images:
        """The projection (L2) of `x_adv` onto ball and box: exact, up to rounding, where both bind."""
        return in_blocks(lambda x, x_adv, bound: self._nearest(x, x_adv, bound, box), x, x_adv, _rows(radius, x))

    def furthest(self, x: Images, direction: Images, radius: Radius, box: Box | None) -> Images:
        """The image of ball and box with the largest inner product with `direction`."""
        return in_blocks(
            lambda x, towards, bound: self._furthest(x, towards, bound, box), x, direction, _rows(radius, x)
        )

    @abstractmethod
    def _nearest(self, x: Images, x_adv: Images, bound: Tensor, box: Box | None) -> Images: ...

    @abstractmethod
    def _furthest(self, x: Images, direction: Images, bound: Tensor, box: Box | None) -> Images: ...

    @abstractmethod
    def sample(self, like: Images, radius: Radius, draws: Draws) -> Images:
        """Uniform in the ball, in the shape and dtype of `like`."""

    def contain(self, x: Images, x_adv: Images, radius: Radius, box: Box | None) -> Images:
        """`x_adv` in box and ball to the last bit: size(x_adv - x) <= radius holds exactly for the returned numbers.

        Rounding leaves a projected image an ulp or so outside. Such images are pulled towards `x`, which must lie in
        the box, until their size in double precision fits.
        """
        return in_blocks(
            lambda x, x_adv, bound: self._contained(x, x_adv, bound, box), x, x_adv, _rows(radius, x, torch.float64)
        )

    def _contained(self, x: Images, x_adv: Images, bound: Tensor, box: Box | None) -> Images:
        if box is not None:
            x_adv = x_adv.clamp(*box)
        wide = x.double()
        # A sum in another order may be a few ulps larger, hence the margin.
        bound = bound[:, 0] * (1 - 16 * torch.finfo(torch.float64).eps)
        for turn in range(17):
            delta = x_adv.double() - wide
            size = self.size(delta)
            out = torch.where(size > bound)[0]
            if len(out) == 0:
                return x_adv
            if turn == 16:
                return x_adv.index_copy(0, out, x[out])
            share = max(0.0, 1 - 4**turn * torch.finfo(x.dtype).eps) * bound[out] / size[out].clamp(min=TINY)
            x_adv = x_adv.index_copy(0, out, (wide[out] + delta[out] * column(share, x)).to(x.dtype))
        raise AssertionError


class _Linf(Norm):
    """max |d_i|."""

    name = "Linf"

    def size(self, delta: Images) -> PerImage:
        return in_blocks(lambda flat: flat.abs().amax(1), delta.flatten(1))

    def project(self, delta: Images, radius: Radius) -> Images:
        bound = per_image(radius, delta)
        return delta.clamp(-bound, bound)

    def steepest(self, gradient: Images) -> Images:
        return gradient.sign()

    def sample(self, like: Images, radius: Radius, draws: Draws) -> Images:
        return (2 * draws.uniform(like.shape[1:], like.dtype) - 1) * per_image(radius, like)

    def _nearest(self, x: Images, x_adv: Images, bound: Tensor, box: Box | None) -> Images:
        inside = x + self.project(x_adv - x, bound[:, 0])
        return inside if box is None else inside.clamp_(*box)

    def _furthest(self, x: Images, direction: Images, bound: Tensor, box: Box | None) -> Images:
        moved = direction.sign().mul_(column(bound, x)).add_(x)
        return moved if box is None else moved.clamp_(*box)

    def bounds(self, x: Images, radius: Radius, box: Box | None) -> tuple[Images, Images]:
        """The lowest and highest images of ball and box, rounded inwards, so that a clamp is an exact projection."""
        low, high = (self.corner(x, x.new_full((len(x), *[1] * (x.ndim - 1)), sign), radius, box) for sign in (-1, 1))
        return low, high

    def corner(self, x: Images, sign: Tensor, radius: Radius, box: Box | None) -> Images:
        """The images of ball and box that are furthest along `sign`, of entries -1, 0 and 1, rounded inwards."""
        bound = _rows(radius, x, torch.float64)
        return in_blocks(lambda x, sign, bound: self._corner(x, sign, column(bound, x), box), x, sign, bound)

    @staticmethod
    def _corner(x: Images, sign: Tensor, bound: Tensor, box: Box | None) -> Images:
        wide = x.double()
        end = (wide + sign * bound).to(x.dtype)
        over = (end - wide).mul_(sign).gt_(bound).to(x.dtype)
        end.addcmul_(torch.nextafter(end, x).sub_(end), over)  # `where` takes 20 times as long on a CPU
        return end if box is None else end.clamp_(*box)

    def contain(self, x: Images, x_adv: Images, radius: Radius, box: Box | None) -> Images:
        return x_adv.clamp(*self.bounds(x, radius, box))


class _L2(Norm):
    """sqrt(sum d_i^2)."""

    name = "L2"

    def size(self, delta: Images) -> PerImage:
        return torch.linalg.vector_norm(delta.flatten(1), dim=1)

    def project(self, delta: Images, radius: Radius) -> Images:
        size = column(self.size(delta), delta)
        return delta * (per_image(radius, delta) / size.clamp(min=TINY)).clamp(max=1)

    def steepest(self, gradient: Images) -> Images:
        # By the largest entry first: squares of the tiny gradients of a saturated softmax underflow in float32.
        top = column(gradient.flatten(1).abs().amax(1), gradient)
        scaled = gradient / (top + (top == 0))
        size = self.size(scaled).reshape(top.shape)
        return scaled / size.clamp(min=TINY)

    def _nearest(self, x: Images, x_adv: Images, bound: Tensor, box: Box | None) -> Images:
        """By Lagrange, clip(m (x_adv - x)) with m <= 1 where the clipped image is still outside."""
        inside = x_adv if box is None else x_adv.clamp(*box)
        size = self.size(inside - x)[:, None]
        outside = torch.where(size > bound)[0]
        if len(outside) == len(x):
            return self._shrunk(x, x_adv, size, bound, box)
        if len(outside):
            rest = self._shrunk(x[outside], x_adv[outside], size[outside], bound[outside], box)
            inside = inside.index_copy(0, outside, rest)
        return inside

    def _shrunk(self, x: Images, x_adv: Images, size: Tensor, bound: Tensor, box: Box | None) -> Images:
        """`_nearest` of images whose clipped perturbations, of this `size`, are too long. The size squared grows with
        m^2, concave and piecewise linear: by the secant method, and where that is slow as `_furthest`."""
        way, length = x_adv - x, bound.square()
        before, above, fits = torch.ones_like(bound), size.square(), bound < 0
        share = length / above  # exact where the box binds nothing
        inside, delta = torch.empty_like(x), torch.empty_like(x)
        for _ in range(8):
            torch.addcmul(x, way, column(share.sqrt(), x), out=inside)
            if box is not None:
                inside.clamp_(*box)
            square = torch.sub(inside, x, out=delta).square_().flatten(1).sum(1, keepdim=True)
            left = length - square
            fits = left.abs() <= 8 * torch.finfo(x.dtype).eps * length
            if bool(fits.all()):
                return inside
            better = (share + left * (share - before) / (square - above)).clamp_(0, 1)
            before, above, share = share, square, torch.where(fits, share, better)
        rest = torch.where(~fits)[0]
        return inside.index_copy(0, rest, self._furthest(x[rest], way[rest], bound[rest], box))

    def _furthest(self, x: Images, direction: Images, bound: Tensor, box: Box | None) -> Images:
        """By Lagrange, clip(m direction). The size squared, sum min(m^2 d_i^2, room_i^2), is concave and piecewise
        linear in m^2, so Newton's method comes from below and ends; without a box its start is the answer."""
        weight = direction.flatten(1).abs()
        top = weight.amax(1, keepdim=True)
        weight /= top + (top == 0)  # squares of the tiny gradients of a saturated softmax underflow
        sign = direction.sign()
        room, square, length = _room(x, sign, box), weight.square(), bound.square()
        multiplier = length / square.sum(1, keepdim=True).clamp_(min=TINY)
        most, part, free = room.square(), torch.empty_like(square), torch.empty_like(square)
        for _ in range(0 if box is None else 50):
            torch.mul(square, multiplier, out=part)
            torch.lt(part, most, out=free)
            loose = free.mul_(part).sum(1, keepdim=True)
            left = length - torch.minimum(part, most, out=part).sum(1, keepdim=True)
            better = multiplier * (1 + (left / loose.clamp(min=TINY)).where(loose > 0, 0))
            if not bool((better > multiplier * (1 + 4 * torch.finfo(x.dtype).eps)).any()):
                break
            multiplier = torch.maximum(multiplier, better)
        return _moved(x, sign, torch.minimum(weight.mul_(multiplier.sqrt()), room), box)

    def sample(self, like: Images, radius: Radius, draws: Draws) -> Images:
        shape = like.shape[1:]
        direction = self.steepest(draws.normal(shape, like.dtype))
        share = draws.split(1).uniform((), like.dtype) ** (1 / max(shape.numel(), 1))
        return direction * column(share, like) * per_image(radius, like)


class _L1(Norm):
    """sum |d_i|."""

    name = "L1"

    def size(self, delta: Images) -> PerImage:
        return delta.flatten(1).abs().sum(1)

    def project(self, delta: Images, radius: Radius) -> Images:
        """By sorting (Duchi et al., "Efficient projections onto the l1-ball", ICML 2008, figure 1)."""
        magnitude = delta.flatten(1).abs()
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
        flat = gradient.flatten(1)
        top = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign()).reshape(gradient.shape)

    def _nearest(self, x: Images, x_adv: Images, bound: Tensor, box: Box | None) -> Images:
        """By Lagrange, entries of size min(max(|d_i| - t, 0), room_i). Their sum falls in t, piecewise linearly: t by
        Newton's method, with bisection where that leaves the bracket or is slow."""
        if box is None:
            return x + self.project(x_adv - x, bound[:, 0])
        delta = x_adv - x
        magnitude, sign = delta.flatten(1).abs(), delta.sign()
        room = _room(x, sign, box)
        value = torch.minimum(magnitude, room).sum(1, keepdim=True) - bound
        low, high, binding = torch.zeros_like(bound), magnitude.amax(1, keepdim=True), value > 0
        threshold, part, free = low, torch.empty_like(magnitude), torch.empty_like(magnitude)
        for turn in range(60):
            torch.sub(magnitude, threshold, out=part).clamp_(min=0)
            slope = torch.lt(part, room, out=free).mul_(part.sign()).sum(1, keepdim=True)
            value = torch.minimum(part, room, out=part).sum(1, keepdim=True) - bound
            low, high = torch.where(value > 0, threshold, low), torch.where(value > 0, high, threshold)
            newton = threshold + value / slope.clamp(min=1)
            good = (newton > low) & (newton < high) & (slope > 0) & (turn % 4 < 3)
            going = binding & (value.abs() > 16 * torch.finfo(x.dtype).eps * bound) & (low < high)
            if not bool(going.any()):
                break
            threshold = torch.where(going, torch.where(good, newton, (low + high) / 2), threshold)
        return _moved(x, sign, torch.minimum(magnitude.sub_(threshold).clamp_(min=0), room), box)

    def _furthest(self, x: Images, direction: Images, bound: Tensor, box: Box | None) -> Images:
        """The steepest entries, each as far as the box lets it, the last in part."""
        weight, sign = direction.flatten(1).abs(), direction.sign()
        room = torch.minimum(_room(x, sign, box), bound) * (weight > 0)
        count = min(weight.shape[1], 64)
        while True:
            order = weight.topk(count, dim=1).indices
            full = room.gather(1, order)
            before = full.cumsum(1) - full
            if count == weight.shape[1] or bool((before[:, -1:] >= bound).all()):
                break
            count = min(2 * count, weight.shape[1])
        amount = torch.minimum((bound - before).clamp_(min=0), full)
        return _moved(x, sign, torch.zeros_like(room).scatter_(1, order, amount), box)

    def sample(self, like: Images, radius: Radius, draws: Draws) -> Images:
        # Exponential spacings, with one more for the slack, are uniform in the corner of the simplex.
        shape = like.shape[1:]
        weight = -torch.log1p(-draws.uniform(shape, like.dtype))
        slack = -torch.log1p(-draws.split(1).uniform((), like.dtype))
        sign = torch.where(draws.split(2).uniform(shape, like.dtype) < 0.5, -1.0, 1.0).to(like.dtype)
        total = (weight.flatten(1).sum(1) + slack).clamp(min=TINY)
        return sign * weight / column(total, like) * per_image(radius, like)


class _L0(Norm):
    """The number of entries that are not 0. Its ball is unbounded, so steps and samples have entries within [-1, 1]."""

    name = "L0"

    def size(self, delta: Images) -> PerImage:
        return (delta.flatten(1) != 0).sum(1).to(delta.dtype)

    def project(self, delta: Images, radius: Radius) -> Images:
        return delta * self._largest(delta.flatten(1).abs(), radius, delta)

    def steepest(self, gradient: Images) -> Images:
        return L1.steepest(gradient)

    def _nearest(self, x: Images, x_adv: Images, bound: Tensor, box: Box | None) -> Images:
        inside = x_adv if box is None else x_adv.clamp(*box)
        wanted, got = (x_adv - x).flatten(1), (inside - x).flatten(1)
        kept = self._largest(got * (2 * wanted - got), bound[:, 0], x)  # how much nearer each entry brings it, squared
        return torch.where(kept.bool(), inside, x)

    def _furthest(self, x: Images, direction: Images, bound: Tensor, box: Box | None) -> Images:
        """Without a box, entries move by 1."""
        sign = direction.sign()
        room = _room(x, sign, box).clamp_(max=torch.inf if box else 1)
        kept = self._largest(direction.flatten(1).abs() * room, bound[:, 0], x)
        return _moved(x, sign, kept.flatten(1) * room, box)

    def sample(self, like: Images, radius: Radius, draws: Draws) -> Images:
        shape = like.shape[1:]
        where = self._largest(draws.split(1).uniform(shape, torch.float64).flatten(1), radius, like)
        return where * (2 * draws.uniform(shape, like.dtype) - 1)

    def contain(self, x: Images, x_adv: Images, radius: Radius, box: Box | None) -> Images:
        if box is not None:
            x_adv = x_adv.clamp(*box)
        kept = self._largest((x_adv - x).flatten(1).abs(), radius, x)
        return torch.where(kept.bool(), x_adv, x)

    @staticmethod
    def _largest(score: Tensor, radius: Radius, like: Tensor) -> Tensor:
        """One at the `radius` entries of highest score, 0 elsewhere; of equal scores, the first."""
        order = score.sort(dim=1, descending=True, stable=True).indices
        rank = torch.arange(score.shape[1], device=score.device).expand_as(order)
        chosen = (rank < per_image(radius, like).reshape(-1, 1).floor()).to(like.dtype)
        kept = torch.zeros(score.shape, dtype=like.dtype, device=score.device)
        return kept.scatter(1, order, chosen).reshape(like.shape)


Linf = _Linf()
L2 = _L2()
L1 = _L1()
L0 = _L0()

NORMS: dict[str, Norm] = {norm.name: norm for norm in (Linf, L2, L1, L0)}
"""By name, which is also what `repr` gives."""

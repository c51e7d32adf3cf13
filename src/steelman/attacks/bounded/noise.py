"""Random noise: how much chance alone achieves."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor

from steelman.attacks.core import Access, Attack, Ball, Draws, Goal, Oracle
from steelman.norms import L0, L2, Linf, Norm, column, per_image
from steelman.ranges import Count, OneOf
from steelman.types import Box, Images, Indices, Labels, PerImage, Radius, Share


class _Noise(Attack):
    """The first draw that reaches the goal, or the last one."""

    access: ClassVar[Access] = "decisions"
    chance: ClassVar[bool] = True

    samples: int

    @property
    @abstractmethod
    def _size(self) -> Radius:
        """How large the noise is: one number or one per image."""

    @abstractmethod
    def _drawn(self, x: Images, size: Radius, draws: Draws) -> Images:
        """A draw for each image."""

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        x_adv, which = x.clone(), torch.arange(len(x), device=x.device)
        for sample in range(self.samples):
            size = self._size[which] if isinstance(self._size, Tensor) and self._size.ndim else self._size
            x_adv[which] = image = self._drawn(x[which], size, draws.split(sample)[which])
            which = which[~goal[which].met(oracle.decisions(image, which))]
            if len(which) == 0:
                break
        return x_adv


class _InBall(_Noise):
    """Noise with a radius."""

    eps: Radius

    @property
    def _size(self) -> Radius:
        return self.eps


@dataclass(frozen=True)
class GaussianNoise(_InBall):
    """Gaussian noise of a given length: the first of several draws that reaches the goal.

    x' = clip(x + eps z / |z|_2) with z ~ N(0, I). In n dimensions |z|_2 is sqrt(n) to within 1 / sqrt(2 n), so noise of
    standard deviation sigma has eps = sigma sqrt(n): sigma .1 on MNIST is eps 2.8, on CIFAR-10 5.5. `SigmaNoise` has
    exactly this deviation, and no length.

    eps      L2 length of the noise, one number or one per image (default 2.8)
    samples  draws per image, default 1; an image's first success is returned, or else its last draw
    rescale  lengthen the noise until it has length eps after clipping to the box (default False: it is clipped, and
             shorter; True is Foolbox's clipping-aware noise)
    norm     L2, the only one; UniformNoise has all

    Cost: at most `samples` forward passes; decisions are enough.
    Reference: none for additive noise. Dan Hendrycks and Thomas Dietterich measure robustness to it ("Benchmarking
    neural network robustness to common corruptions and perturbations", ICLR 2019).
    """

    eps: Radius = Share(2.8)
    samples: Count = 1
    rescale: bool = False
    norm: Annotated[Norm, OneOf((L2,), "Use UniformNoise")] = L2

    def _drawn(self, x: Images, size: Radius, draws: Draws) -> Images:
        noise = L2.steepest(draws.normal(x.shape[1:], x.dtype)) * per_image(size, x)
        if self.rescale and self.box is not None:
            noise = noise * column(_scale(x, noise, self.box), x)
        return L2.contain(x, x + noise, size, self.box)


@dataclass(frozen=True)
class SigmaNoise(_Noise):
    """Gaussian noise of a given standard deviation: the first of several draws that reaches the goal.

    x' = clip(x + sigma z), z ~ N(0, I). It has no radius, so that it counts in no worst case.

    sigma    standard deviation of each entry, one number or one per image (default 100/255, the largest of TisODE's
             columns on MNIST)
    samples  draws per image, default 1 (TisODE's columns); an image's first success is returned, or else its last draw

    TisODE's code counts an image as right that noise heals; `accuracy` counts every natural error as an error.

    Cost: at most `samples` forward passes; decisions are enough.
    Reference: Hanshu Yan, Jiawei Du, Vincent Y. F. Tan and Jiashi Feng, "On robustness of neural ordinary differential
    equations", ICLR 2020, section 3.
    """

    sigma: Radius = Share(100 / 255)
    samples: Count = 1

    @property
    def _size(self) -> Radius:
        return self.sigma

    def _drawn(self, x: Images, size: Radius, draws: Draws) -> Images:
        noisy = x + draws.normal(x.shape[1:], x.dtype) * per_image(size, x, "sigma")
        return noisy if self.box is None else noisy.clamp(*self.box)


@dataclass(frozen=True)
class UniformNoise(_InBall):
    """Noise that is uniform in the ball: the first of several draws that reaches the goal.

    x' = clip(x + r), r uniform in the ball of radius eps.

    eps      radius, one number or one per image (default 8/255)
    norm     Linf (default), L2, L1, L0
    samples  draws per image, default 1; an image's first success is returned, or else its last draw. Errors that 10^4
             draws cause and a gradient attack does not are a sign of masked gradients

    Cost: at most `samples` forward passes; decisions are enough.
    Reference: Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 3.1.
    """

    eps: Radius = Share(8 / 255)
    norm: Norm = Linf
    samples: Count = 1

    def _drawn(self, x: Images, size: Radius, draws: Draws) -> Images:
        ball = Ball.around(x, size, self.norm, self.box)
        return self.norm.contain(x, ball.sample(draws), size, self.box)


@dataclass(frozen=True)
class SaltAndPepper(Attack):
    """Salt-and-pepper noise: the fewest random entries, set to the ends of the box, that reach the goal.

    A pattern gives every entry one end of the box, at even odds, and a random order to those that change by it. The
    first 1, 2, 4, ... of them are set until the goal is reached, and bisection finds how many are needed. Each further
    pattern is tried with one entry fewer than the best so far, and bisected only where that is enough. Images that are
    misclassified without an attack, or that no pattern fools, are returned as they are.

    samples       patterns per image, default 100
    share_max     largest share of the entries changed by a pattern that may be set (default 1)
    whole_pixels  all channels of a pixel get the same end, at the same place in the order (default False: every entry
                  has its own; Foolbox: True)
    norm          L0, the only one: it counts changed entries

    Foolbox draws anew at each of 1,000 shares that rise towards the best so far.

    Cost: 1 forward pass, 2 log2(entries) for the first pattern, 1 for each further one, and log2(entries) for those
    that are better, of which there are about log(samples); decisions are enough.
    Reference: none for the noise; as an attack it is Foolbox's: Jonas Rauber, Wieland Brendel and Matthias Bethge,
    "Foolbox: a Python toolbox to benchmark the robustness of machine learning models", ICML workshop 2017.

    Raises:
        ValueError: box=None, since the ends of the box are what entries are set to.
    """

    access: ClassVar[Access] = "decisions"
    chance: ClassVar[bool] = True

    samples: Count = 100
    share_max: Annotated[float, Interval(gt=0, le=1)] = 1.0
    whole_pixels: bool = False
    norm: Annotated[Norm, OneOf((L0,))] = L0

    def __post_init__(self) -> None:
        if self.box is None:
            raise ValueError("SaltAndPepper sets entries to the ends of the box: give it one, such as (0, 1)")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        x_adv, which = x.clone(), torch.where(~goal.met(oracle.decisions(x)))[0]
        fewest = torch.full_like(goal.labels, x[0].numel() + 1)  # entries changed in `x_adv`
        for sample in range(self.samples):
            self._try(oracle, x, x_adv, goal, fewest, which, draws.split(sample)[which])
        return x_adv

    def _try(
        self, oracle: Oracle, x: Images, x_adv: Images, goal: Goal, fewest: Labels, which: Indices, draws: Draws
    ) -> None:
        """One pattern for the images `which`; it goes into `x_adv` where it needs fewer entries than `fewest`."""
        clean, goal = x[which], goal[which]
        noise, rank, most = self._pattern(clean, draws)
        most, again = torch.minimum(most, fewest[which] - 1), x_adv[which].ne(clean).flatten(1).any(1)
        # Rising until the first success, then bisecting: from `least`, which is too few, to `enough`.
        least, enough = torch.zeros_like(most), torch.full_like(most, -1)
        while True:
            climbing, narrowing = (enough < 0) & (least < most), enough - least > 1
            place = torch.where(climbing | narrowing)[0]
            if len(place) == 0:
                return
            low, high = least[place], enough[place]
            step = torch.where(again[place], most[place], (2 * low).clamp(min=1))
            count = torch.where(high < 0, torch.minimum(step, most[place]), (low + high) // 2)
            trial = torch.where(rank[place] < column(count, x), noise[place], clean[place])
            met = goal[place].met(oracle.decisions(trial, which[place]))
            least[place], enough[place] = torch.where(met, low, count), torch.where(met, count, high)
            better = which[place[met]]
            x_adv[better], fewest[better] = trial[met], count[met]

    def _pattern(self, x: Images, draws: Draws) -> tuple[Images, Tensor, Labels]:
        """The values that entries are set to, their places in the order, and how many may be set."""
        assert self.box is not None
        shape = (1, *x.shape[2:]) if self.whole_pixels and x.ndim > 2 else x.shape[1:]
        end = torch.where(draws.uniform(shape) < 0.5, self.box[0], self.box[1]).to(x.dtype).expand(x.shape)
        order = draws.split(1).uniform(shape).expand(x.shape)
        changed = end != x
        place = order.masked_fill(~changed, 2).flatten(1).argsort(dim=1, stable=True)
        numbers = torch.arange(place.shape[1], device=x.device).expand_as(place)
        rank = torch.empty_like(place).scatter_(1, place, numbers).reshape(x.shape)
        most = changed.flatten(1).sum(1)
        return end, rank, (self.share_max * most + 1e-9).long()


def _scale(x: Images, noise: Images, box: Box) -> PerImage:
    """The s at which clip(x + s noise) - x is as long as `noise`; where the box is too small, one that fills it.

    Entry i reaches the box at s_i. With the entries in the order of s_i, the squared length at s is the sum of the
    squared ways of the entries that have arrived, and of s^2 noise_i^2 of the others: a closed form between neighbours.
    """
    flat, start = noise.flatten(1).double(), x.flatten(1).double()
    way = torch.where(flat > 0, box[1] - start, start - box[0])
    arrival, order = (way / flat.abs().clamp(min=1e-300)).sort(dim=1)
    way, square = way.gather(1, order).square(), flat.square().gather(1, order)
    arrived = way.cumsum(1) - way  # before entry i arrives
    moving = square.flip(1).cumsum(1).flip(1)
    goal = flat.square().sum(1, keepdim=True)
    longest = arrived + arrival.square() * moving
    index = (longest < goal).sum(1, keepdim=True).clamp(max=flat.shape[1] - 1)
    left = (goal - arrived.gather(1, index)).clamp(min=0) / moving.gather(1, index).clamp(min=1e-300)
    return left.sqrt()[:, 0].to(x.dtype)

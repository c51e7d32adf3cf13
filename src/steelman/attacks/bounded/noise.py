"""Random noise: how much chance alone achieves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steelman.attacks.core import Access, Attack, Ball, Oracle
from steelman.losses import Goal
from steelman.norms import L0, L2, Linf, Norm, per_image
from steelman.randomness import Draws
from steelman.types import Box, Images, Indices, Labels, PerImage, Radius, Share


@dataclass(frozen=True)
class GaussianNoise(Attack):
    """Gaussian noise of a given length: the first of some draws that reaches the goal.

    x' = clip(x + eps z / |z|_2) with z ~ N(0, I). In n dimensions |z|_2 is sqrt(n) to within 1 / sqrt(2 n), so noise of
    standard deviation sigma has eps = sigma sqrt(n): sigma .1 on MNIST is eps 2.8, on CIFAR-10 5.5.

    eps      L2 length of the noise, one number or one per image (default 2.8)
    samples  draws per image, default 1; an image leaves at its first success, and else returns its last draw
    rescale  lengthen the noise until what the box leaves of it has length eps (default False: it is clipped, and
             shorter; True is Foolbox's clipping-aware noise)
    norm     L2, the only one; UniformNoise has all

    Cost: at most `samples` forward passes; decisions are enough, no gradient is used.
    Reference: none; additive noise of old. Dan Hendrycks and Thomas Dietterich measure robustness to it ("Benchmarking
    neural network robustness to common corruptions and perturbations", ICLR 2019).
    """

    access: ClassVar[Access] = "decisions"
    chance: ClassVar[bool] = True

    eps: Radius = Share(2.8)
    samples: int = 1
    rescale: bool = False
    norm: Norm = L2

    def __post_init__(self) -> None:
        if self.norm is not L2:
            raise ValueError(f"GaussianNoise has an L2 length; for {self.norm} there is UniformNoise")
        _check_samples(self, self.samples)

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        def noisy(which: Indices, draws: Draws) -> Images:
            clean, eps = x[which], _radius(self.eps, which)
            noise = L2.steepest(draws.normal(x.shape[1:], x.dtype)) * per_image(eps, clean)
            if self.rescale and self.box is not None:
                noise = noise * _scale(clean, noise, self.box).reshape(-1, *[1] * (x.ndim - 1))
            return L2.contain(clean, clean + noise, eps, self.box)

        return _first_success(oracle, x, goal, draws, self.samples, noisy)


@dataclass(frozen=True)
class UniformNoise(Attack):
    """Noise that is uniform in the ball: the first of some draws that reaches the goal.

    x' = clip(x + r), r uniform in the ball of radius eps.

    eps      radius, one number or one per image (default 8/255)
    norm     Linf (default), L2, L1, L0
    samples  draws per image, default 1; an image leaves at its first success, and else returns its last draw. Errors
             that 10^4 draws find and a gradient attack does not are a sign of masked gradients

    Cost: at most `samples` forward passes; decisions are enough, no gradient is used.
    Reference: Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 3.1.
    """

    access: ClassVar[Access] = "decisions"
    chance: ClassVar[bool] = True

    eps: Radius = Share(8 / 255)
    norm: Norm = Linf
    samples: int = 1

    def __post_init__(self) -> None:
        _check_samples(self, self.samples)

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        def noisy(which: Indices, draws: Draws) -> Images:
            clean, eps = x[which], _radius(self.eps, which)
            return self.norm.contain(clean, Ball.around(clean, eps, self.norm, self.box).sample(draws), eps, self.box)

        return _first_success(oracle, x, goal, draws, self.samples, noisy)


@dataclass(frozen=True)
class SaltAndPepper(Attack):
    """Salt-and-pepper noise: the fewest random entries, set to the ends of the box, that reach the goal.

    A pattern gives every entry one end of the box, at even odds, and a random order to those that change by it. The
    first 1, 2, 4, ... of them are set until the goal is reached, and bisection finds how many are needed. Each further
    pattern is asked with one entry fewer than the best so far, and bisected only where that is enough. Images that are
    misclassified to begin with, or that no pattern fools, are returned as they are.

    samples       patterns per image, default 100
    share_max     largest share of the entries a pattern changes that may be set (default 1)
    whole_pixels  all channels of a pixel get the same end, at the same place in the order (default False: every entry
                  has its own; Foolbox: True)
    norm          L0, the only one: it counts changed entries

    Foolbox draws anew at each of 1,000 shares that rise towards the best so far.

    Cost: 1 forward pass, 2 log2(entries) for the first pattern, 1 for each further one, and log2(entries) for those
    that are better, of which there are about log(samples); decisions are enough, no gradient is used.
    Reference: none; the noise is old, as an attack it is Foolbox's: Jonas Rauber, Wieland Brendel and Matthias Bethge,
    "Foolbox: a Python toolbox to benchmark the robustness of machine learning models", ICML workshop 2017.

    Raises:
        ValueError: box=None, since the ends of the box are what entries are set to.
    """

    access: ClassVar[Access] = "decisions"
    chance: ClassVar[bool] = True

    samples: int = 100
    share_max: float = 1.0
    whole_pixels: bool = False
    norm: Norm = L0

    def __post_init__(self) -> None:
        if self.norm is not L0:
            raise ValueError(f"SaltAndPepper counts changed entries: its norm is L0; got {self.norm}")
        if self.box is None:
            raise ValueError("SaltAndPepper sets entries to the ends of the box: give it one, such as (0, 1)")
        if not 0 < self.share_max <= 1:
            raise ValueError(
                f"SaltAndPepper needs share_max, the share of entries set, in (0, 1]; got {self.share_max}"
            )
        _check_samples(self, self.samples)

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        found, which = x.clone(), torch.where(~goal.met(oracle.decisions(x)))[0]
        best = torch.full_like(goal.labels, x[0].numel() + 1)  # entries changed in `found`
        for sample in range(self.samples):
            self._try(oracle, x, found, goal, best, which, draws.split(sample)[which])
        return found

    def _try(
        self, oracle: Oracle, x: Images, found: Images, goal: Goal, best: Labels, which: Indices, draws: Draws
    ) -> None:
        """One pattern for the images `which`: where it does with fewer entries than `best`, it goes into `found`."""
        clean, goal = x[which], goal[which]
        noise, rank, most = self._pattern(clean, draws)
        most, again = torch.minimum(most, best[which] - 1), found[which].ne(clean).flatten(1).any(1)
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
            trial = torch.where(rank[place] < count.reshape(-1, *[1] * (x.ndim - 1)), noise[place], clean[place])
            met = goal[place].met(oracle.decisions(trial, which[place]))
            least[place], enough[place] = torch.where(met, low, count), torch.where(met, count, high)
            won = which[place[met]]
            found[won], best[won] = trial[met], count[met]

    def _pattern(self, x: Images, draws: Draws) -> tuple[Images, Tensor, Labels]:
        """What entries are set to, their places in the order, and how many may be set."""
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


def _check_samples(attack: Attack, samples: int) -> None:
    if samples < 1:
        raise ValueError(f"{type(attack).__name__} needs samples >= 1, the draws per image; got {samples}")


def _radius(eps: Radius, which: Indices) -> Radius:
    return eps[which] if isinstance(eps, Tensor) and eps.ndim else eps


def _first_success(
    oracle: Oracle, x: Images, goal: Goal, draws: Draws, samples: int, noisy: Callable[[Indices, Draws], Images]
) -> Images:
    """The first draw of `noisy` that reaches the goal, or the last one; images that are done leave."""
    found, which = x.clone(), torch.arange(len(x), device=x.device)
    for sample in range(samples):
        found[which] = image = noisy(which, draws.split(sample)[which])
        which = which[~goal[which].met(oracle.decisions(image, which))]
        if len(which) == 0:
            break
    return found


def _scale(x: Images, noise: Images, box: Box) -> PerImage:
    """The s at which clip(x + s noise) - x is as long as `noise`; where the box is too small, one that fills it.

    Entry i reaches the box at s_i; with the entries in the order of s_i, the squared length at s is the squares of the
    ways of those that have arrived, and s^2 times those of the others: a closed form between any two neighbours.
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

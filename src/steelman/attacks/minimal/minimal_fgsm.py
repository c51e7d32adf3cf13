"""The smallest step along one fixed direction."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import torch
from torch import Tensor

from steelman.attacks.core import Attack, Oracle
from steelman.losses import CrossEntropy, Goal, Loss
from steelman.norms import L1, L2, Linf, Norm
from steelman.randomness import Draws
from steelman.ranges import OneOf, Positive
from steelman.types import Flags, Images, Indices, Share

RELATIVE = 1e-4

Path: TypeAlias = Callable[[Indices, Tensor], tuple[Images, Flags]]
"""Of the named images, those at the given radii along their gradients, and whether they reach the goal."""


@dataclass(frozen=True)
class MinimalFGSM(Attack):
    """Minimal FGSM: the smallest eps, per image, for which FGSM succeeds.

    x(eps) = the image of ball and box that is furthest along grad_x L(x, y), a path with a fixed direction:
    clip(x + eps sign(grad)) for Linf. The radii eps_max 2^(-12), eps_max 2^(-11.5), ..., eps_max are tried in turn, and
    the interval before the first that succeeds is bisected until it is 1e-4 of its end. Images that are misclassified
    to begin with, and those without a success, are returned unchanged.

    norm     Linf (default, the paper's), L2, L1
    eps_max  largest radius, default 1 in units of the box
    grid     try grid, 2 grid, ... up to eps_max instead, and do not bisect; None (default) does not, .05 is the paper's
    loss     cross-entropy (default), Margin, DLR
    legacy_indexing  default False. True repeats the authors' code of 2017 with its fault, on a grid: table 2 of the
             paper was made so. After each radius it knows the images that are left by their places among those just
             attacked, and from the third radius on takes these for places in the whole batch. So other images are
             attacked again, and most of those that are left are not. An image comes back with its last radius, fooled
             or not. The first radius is for all, misclassified images too

    With legacy_indexing, an answer depends on which images are in the call, and in which order: the authors had all
    10,000 test images in one, `evaluate` has batch_size of them. Their last radius was .95: .05 added up passes 1.

    Cost: 1 forward and 1 gradient pass, at most 25 forward passes for the radii and 14 for the bisection. Once images
    have left, others try several radii at once in their place.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, section 5.

    Raises:
        ValueError: a grid above eps_max; legacy_indexing without a grid; KL, which has no gradient at x.
    """

    norm: Annotated[Norm, OneOf((Linf, L2, L1), "For L0 use JSMA")] = Linf
    eps_max: Positive = Share(1.0)
    grid: Positive | None = None
    loss: Loss = field(default_factory=CrossEntropy)
    legacy_indexing: bool = False

    def __post_init__(self) -> None:
        if self.grid is not None and self.grid > self.eps_max:
            raise ValueError(f"MinimalFGSM needs grid <= eps_max; got {self.grid} and {self.eps_max}")
        if self.legacy_indexing and self.grid is None:
            raise ValueError("legacy_indexing repeats a search on a grid, and needs one: .05 is the authors'")
        if self.loss.needs_reference:
            raise ValueError(f"{type(self.loss).__name__} has no gradient at the clean image; use CrossEntropy()")

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        logits, _, gradient = oracle.ascent(x, self.loss, goal)
        x_adv = x.clone()

        def path(which: Indices, radius: Tensor) -> tuple[Images, Flags]:
            image = self.norm.furthest(x[which], gradient[which], radius, self.box)
            return image, goal[which].reached(oracle.logits(image, which))

        if self.legacy_indexing:
            return self._mixed_up(path, x_adv)
        low, high = self._scan(path, x_adv, torch.where(~goal.reached(logits))[0])
        if self.grid is None:
            going = torch.where(high.isfinite())[0]
            while len(going):
                middle = (low[going] + high[going]) / 2
                image, hit = path(going, middle)
                x_adv[going[hit]] = image[hit]
                high[going], low[going] = torch.where(hit, middle, high[going]), torch.where(hit, low[going], middle)
                going = going[high[going] - low[going] > RELATIVE * high[going]]
        return x_adv

    def _radii(self, like: Tensor) -> Tensor:
        if self.grid is None:
            return self.eps_max * 2 ** (torch.arange(-24, 1, dtype=like.dtype, device=like.device) / 2)
        count = int(self.eps_max / self.grid + 1e-9)
        return self.grid * torch.arange(1, count + 1, dtype=like.dtype, device=like.device)

    def _scan(self, path: Path, x_adv: Images, rest: Tensor) -> tuple[Tensor, Tensor]:
        """The radius before the first that succeeds, and that one, for every image; infinite where none does."""
        radii = self._radii(x_adv)
        low = x_adv.new_zeros(len(x_adv))
        high = torch.full_like(low, torch.inf)
        start = 0
        while start < len(radii) and len(rest):
            several = radii[start : start + len(x_adv) // len(rest)]
            image, hit = path(rest.repeat(len(several)), several.repeat_interleave(len(rest)))
            hit = hit.reshape(len(several), len(rest))
            first = hit.int().argmax(0)
            done = torch.where(hit.any(0))[0]
            x_adv[rest[done]] = image[first[done] * len(rest) + done]
            high[rest[done]] = several[first[done]]
            before = start + first[done] - 1
            low[rest[done]] = torch.where(before >= 0, radii[before.clamp(min=0)], 0)
            rest, start = rest[~hit.any(0)], start + len(several)
        return low, high

    def _mixed_up(self, path: Path, x_adv: Images) -> Images:
        """The authors' search, in which places among the images just attacked are taken for places in the batch."""
        rest = torch.arange(len(x_adv), device=x_adv.device)
        for radius in self._radii(x_adv):
            if len(rest) == 0:
                break
            image, hit = path(rest, radius.expand(len(rest)))
            x_adv[rest] = image
            rest = torch.where(~hit)[0]
        return x_adv

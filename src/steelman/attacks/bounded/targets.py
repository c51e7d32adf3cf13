"""Which wrong classes an attack aims at, in which order, and a start towards one of them."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from steelman.attacks.core import Oracle
from steelman.losses import Goal, Margin, top_rivals
from steelman.norms import L1, L2, Linf, Norm
from steelman.randomness import Draws
from steelman.types import Flags, Images, Labels, Logits, PerImage, Rows

Order: TypeAlias = Literal["logits", "linearised"]
"""By which wrong classes are ordered: the highest logit first, or the nearest linearised boundary."""

NEAREST_OF = 20
"""At most so many wrong classes, those of the highest logits, are ordered by distance: each costs a gradient."""

DUAL = {Linf: 1.0, L2: 2.0, L1: float("inf")}
"""The q of the norm that is dual to a norm: the largest change of w by a step of length 1 is |w|_q."""

DIRECTION = 0.8
AWAY = (-0.5, 0.1)
"""Weights in A3's code before it has statistics: of the class aimed at, and the range of the label's."""


@dataclass(frozen=True)
class FirstLook(Rows):
    """What an attack sees at the clean images.

    reached  whether the goal is reached without an attack
    margin   max_{k != y} Z_k - Z_y, towards a target Z_t - max_{k != t} Z_k: negative where the goal is not reached
    rivals   wrong classes in order, of shape (batch, rivals); towards a target, that alone
    classes  of the model
    """

    reached: Flags
    margin: PerImage
    rivals: Tensor
    classes: int

    @staticmethod
    def at(oracle: Oracle, x: Images, goal: Goal, norm: Norm, order: Order = "logits", count: int = 0) -> "FirstLook":
        """One forward pass; in order of distance, one gradient pass more for each wrong class, of 20 at most.

        count  how many wrong classes are wanted (default: all)
        """
        linearised = order == "linearised" and goal.target is None
        if not linearised:
            logits = oracle.logits(x)
        else:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                logits = oracle.logits(x)
        most = logits.shape[1] - 1 if count == 0 or linearised else count
        found = logits.detach()
        rivals = top_rivals(found, goal.labels, min(most, NEAREST_OF) if linearised else most)
        rivals = rivals if goal.target is None else goal.target[:, None]
        if linearised:
            rivals = rivals.gather(
                1, _distances(oracle, x, logits, rivals, goal.labels, norm).argsort(dim=1, stable=True)
            )
        return FirstLook(goal.reached(found), Margin()(found, goal), rivals, logits.shape[1])


def _distances(oracle: Oracle, x: Images, logits: Logits, rivals: Tensor, labels: Labels, norm: Norm) -> Tensor:
    """(Z_y - Z_t) / |grad(Z_t - Z_y)|_q for each rival t, of shape (batch, rivals): how far the boundary is if the
    logits are linear, and the box is left out. Infinite where the gradient is 0."""
    with torch.enable_grad():
        gaps = logits.gather(1, rivals) - logits.gather(1, labels[:, None])
    found = torch.empty_like(gaps)
    for column in range(rivals.shape[1]):
        with torch.enable_grad():
            gap = gaps[:, column]
        slope = oracle.backward(gap, x, keep=True).flatten(1)
        top = slope.abs().amax(1).clamp(min=torch.finfo(slope.dtype).tiny)  # squares of tiny gradients underflow
        steep = top * torch.linalg.vector_norm(slope / top[:, None], DUAL[norm], dim=1)
        found[:, column] = torch.where(slope.any(1), -gap.detach() / steep, torch.inf)
    return found


def directions(rivals: Tensor, labels: Labels, classes: int, draws: Draws, dtype: torch.dtype) -> Tensor:
    """A3's random direction of the logits, of shape (batch, classes): .8 for the rival, uniform on [-.5, .1] for the
    label, on [-1, 1] for all others."""
    weights = 2 * draws.uniform((classes,), dtype) - 1
    low, high = AWAY
    away = low + (high - low) * draws.split(1).uniform((1,), dtype)
    return weights.scatter(1, labels[:, None], away).scatter(1, rivals[:, None], DIRECTION)


def along(weights: Tensor, logits: Logits) -> PerImage:
    """<w, Z>."""
    return (weights * logits).sum(1)


def ranked(rivals: Tensor, rank: int) -> Labels:
    """The rival of each image at a rank, from the first again where there are no more."""
    return rivals[:, rank % rivals.shape[1]]

"""A model's gradients by autograd, compared with finite differences."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from steelman.forward import answer_of
from steelman.norms import column
from steelman.randomness import Draws, combine
from steelman.types import Box, Flags, Images, Model, PerImage

JITTER = 0.01
"""Slopes are compared so far off the images, in parts of their range: flat areas lie on the kinks of max pooling."""

STEP = 1e-3
"""Half the length of a finite difference, in L2 and parts of the range; more where rounding would be larger."""


@dataclass(frozen=True)
class Slopes:
    """Slopes of s(x) = Z_r - Z_c on each image, c the predicted class and r the next one, held fixed.

    lost       cross-entropy's gradient is lost in rounding: 1 - p_c is below the precision, or it is 0 where s has one
    finite     gradients of s and of cross-entropy
    length     |grad s| in L2
    distance   |s| / |grad s|: how far the next class is by the linear model
    tested     finite differences are longer than their rounding
    along      (s(x' + h d) - s(x' - h d)) / 2h and grad s(x') . d differ by more than half of |grad s(x')|, where d
               points along the gradient
    across     by more than half of |grad s(x')| / sqrt(n), which is typical of a random d: this also finds a part of
               the gradient that is missing
    repeatable the model answers the same from the same seed of torch

    x' is the image with a jitter. All passes begin at the same seed, so that a random model is one function too.
    """

    lost: Flags
    finite: Flags
    length: PerImage
    distance: PerImage
    tested: Flags
    along: Flags
    across: Flags
    repeatable: bool

    @staticmethod
    def of(model: Model, x: Images, batch_size: int, seed: int) -> "Slopes | None":
        """None where the answer has no graph.

        Cost: 7 forward and 3 gradient passes.
        """
        spread = float(x.amax() - x.amin()) or 1.0
        parts = []
        for which in torch.arange(len(x), device=x.device).split(batch_size):
            part = _of(model, x[which], Draws(combine(torch.full_like(which, seed), which)), seed, spread)
            if part is None:
                return None
            parts.append(part)
        repeatable = all(part.pop("repeatable") for part in parts)
        return Slopes(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]}, repeatable=repeatable)


def _of(model: Model, x: Images, draws: Draws, seed: int, spread: float) -> dict[str, Any] | None:
    at, box = gradient_at(model, x, seed, entropy=True), (float(x.amin()), float(x.amax()))
    near = (x + JITTER * spread * (2 * draws.uniform(x.shape[1:], x.dtype) - 1)).clamp(*box)
    beside = gradient_at(model, near, seed)
    if at is None or beside is None:
        return None
    wrong, tested = differences(model, beside, near, draws, seed, box)
    again = answer_at(model, near, seed)
    repeatable = torch.allclose(again, beside.logits, rtol=1e-3, atol=1e-6, equal_nan=True)
    length = length_of(at.slope)
    sure = 1 - at.logits.double().softmax(1).amax(1) < torch.finfo(x.dtype).eps
    silent = (at.entropy == 0).flatten(1).all(1) & (length > 0)
    return {
        "lost": sure | silent,
        "finite": at.finite,
        "length": length,
        "distance": at.difference(at.logits).abs() / length.clamp(min=1e-300),
        "tested": tested,
        "along": wrong[0],
        "across": wrong[1],
        "repeatable": repeatable,
    }


def differences(
    model: Model, beside: "GradientAt", near: Images, draws: Draws, seed: int, box: Box
) -> tuple[list[Flags], Flags]:
    """Where differences around `near` and its gradient differ, along it and across, and where that can be told.

    Cost: 4 forward passes.
    """
    spread = (box[1] - box[0]) or 1.0
    slope, steep = beside.slope, length_of(beside.slope)
    rounding = 32 * torch.finfo(near.dtype).eps * beside.logits.abs().amax(1).double()
    root = math.sqrt(near[0].numel())
    step = (50 * rounding * root / steep.clamp(min=1e-300)).clamp(min=STEP * spread)
    tested = beside.finite & (steep > 0) & (step <= JITTER * spread * root)
    step = torch.where(tested, step, STEP * spread)
    random = draws.split(1).normal(near.shape[1:], near.dtype)
    wrong = []
    for direction, typical in ((slope, 1.0), (random, 1 / root)):
        unit = direction / column(length_of(direction).clamp(min=1e-300), near).to(near.dtype)
        ends = [near + sign * column(step, near).to(near.dtype) * unit for sign in (1, -1)]
        ends = [end.clamp(*box) for end in ends]
        rise = beside.difference(answer_at(model, ends[0], seed)) - beside.difference(answer_at(model, ends[1], seed))
        way = ends[0].double() - ends[1].double()
        expected = (way * slope.double()).flatten(1).sum(1)
        allowed = 0.5 * steep * length_of(way) * typical
        wrong.append(((rise - expected).abs() > allowed + rounding) & tested)
    return wrong, tested


@dataclass(frozen=True)
class GradientAt:
    """A model's answers for some images, and the gradients of s there."""

    logits: Tensor
    classes: Tensor
    """The predicted class and the next one."""
    slope: Images
    entropy: Images
    finite: Flags

    def difference(self, logits: Tensor) -> PerImage:
        own, rival = logits.double().gather(1, self.classes).unbind(1)
        return rival - own


def gradient_at(model: Model, x: Images, seed: int, *, entropy: bool = False) -> GradientAt | None:
    """Gradients of s, and of cross-entropy with the prediction where it is asked for."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        torch.manual_seed(seed)
        logits = answer_of(model, x)
        if not logits.requires_grad:
            return None
        classes = logits.detach().topk(2).indices
        own, rival = logits.gather(1, classes).unbind(1)
        wanted = [(rival - own).sum()] + [F.cross_entropy(logits, classes[:, 0], reduction="sum")] * entropy
        slopes = [
            torch.autograd.grad(each, x, retain_graph=each is not wanted[-1], allow_unused=True)[0] for each in wanted
        ]
    found = [each for each in slopes if each is not None]
    if len(found) < len(wanted):
        return None
    finite = torch.stack([each.isfinite().flatten(1).all(1) for each in found]).all(0)
    first, last = (each.nan_to_num(0.0, 0.0, 0.0) for each in (found[0], found[-1]))
    return GradientAt(logits.detach(), classes, first, last, finite)


def answer_at(model: Model, x: Images, seed: int) -> Tensor:
    """The logits, with a random model's draws from the seed."""
    with torch.no_grad():
        torch.manual_seed(seed)
        return answer_of(model, x)


def length_of(images: Images) -> PerImage:
    return images.double().flatten(1).norm(dim=1)

"""Adversarial images that a file of bytes can hold."""

import torch

from steelman.attacks.oracle import Oracle
from steelman.losses import Goal
from steelman.norms import Linf, Norm, per_image
from steelman.types import Box, Images, Radius

LEVELS = 255

_LENGTHENED = (1.01, 1.03, 1.1, 1.25, 1.5, 2.0)
"""How far beyond what was found a minimal-norm attack looks for an adversarial image on the grid."""


def check_grid(x: Images, box: Box | None, *, bounded: bool) -> None:
    """Raises ValueError unless images in the box can be put on the grid, those of bounded attacks without moving."""
    if box is None:
        raise ValueError("uint8 cuts the box into 255 steps, and this attack has box=None; give it one, such as (0, 1)")
    place = (x.double() - box[0]) / (box[1] - box[0]) * LEVELS
    off = float((place - place.round()).abs().amax()) if x.numel() else 0.0
    if bounded and off > 1e-3:
        raise ValueError(
            f"uint8 needs images that are bytes / 255 already; one is {off:.2g} of a level off, so that its ball might "
            "hold no such image"
        )


def onto_grid(
    oracle: Oracle, x: Images, x_adv: Images, goal: Goal, box: Box, ball: tuple[Norm, Radius] | None
) -> Images:
    """The first of these that is adversarial: rounded to the nearest level, away from `x`, and for minimal-norm attacks
    a little further on. Where none is, the nearest.

    Cost: one forward pass per try, for the images that are not adversarial yet.
    """
    low, step = box[0], (box[1] - box[0]) / LEVELS
    clean, far = ((each.double() - low) / step for each in (x, x_adv))
    delta = far - clean
    away = torch.where(delta > 0, far.ceil(), torch.where(delta < 0, far.floor(), far.round()))
    tries = [far.round(), away]
    if ball is None:
        tries += [(clean + length * delta).round() for length in _LENGTHENED]
    found = which = None
    for each in tries:
        image = each.clamp(0, LEVELS)
        if ball is not None:
            image = _into_ball(clean.round(), far, image, ball, step)
        values = (image / LEVELS * (box[1] - low) + low).to(x.dtype)  # in this order k / 255 itself for the box (0, 1)
        if found is None or which is None:
            found = values
            which = torch.where(~goal.met(oracle.decisions(values)))[0]
        else:
            met = goal[which].met(oracle.decisions(values[which], which))
            found[which[met]] = values[which[met]]
            which = which[~met]
        if len(which) == 0:
            break
    assert found is not None
    return found


def _into_ball(clean: Images, far: Images, image: Images, ball: tuple[Norm, Radius], step: float) -> Images:
    """The levels `image`, pulled towards those of the clean image where they left the ball (of radius eps / step)."""
    norm, eps = ball
    radius = per_image(eps, clean) / (1 if norm.name == "L0" else step) + 1e-6
    if norm is Linf:
        return torch.minimum(torch.maximum(image, (clean - radius).ceil()), (clean + radius).floor())
    inward = clean + (far - clean).trunc()  # on the grid, and no entry further off than where the attack had it
    size = norm.size(image - clean).reshape(-1, *[1] * (clean.ndim - 1))
    return torch.where(size <= radius, image, inward)

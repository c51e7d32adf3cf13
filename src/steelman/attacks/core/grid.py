"""Adversarial images that a file of bytes can hold."""

from collections.abc import Iterator

import torch

from steelman.attacks.core.oracle import Oracle
from steelman.losses import Goal
from steelman.norms import Linf, Norm, column, per_image
from steelman.types import Box, Flags, Images, Radius

LEVELS = 255

_LENGTHENED = (1.01, 1.03, 1.1, 1.25, 1.5, 2.0)
"""Multiples of the perturbation at which a minimal-norm attack looks for an adversarial image on the grid."""

_SHORTENED = tuple(1 - k / 50 for k in range(10, 0, -1))
"""Shorter multiples, for types whose rounding is as large as small perturbations."""


def check_grid(x: Images, box: Box | None, *, bounded: bool) -> None:
    """Raises ValueError unless images in the box can be put on the grid; those of bounded attacks must be on it."""
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
    a little further. If none is, the nearest.

    Cost: one forward pass per try, for the images that are not adversarial yet.
    """
    low, step = box[0], (box[1] - box[0]) / LEVELS
    clean, far = ((each.double() - low) / step for each in (x, x_adv))
    delta = far - clean
    away = torch.where(delta > 0, far.ceil(), torch.where(delta < 0, far.floor(), far.round()))
    tries = [far.round(), away]
    if ball is None:
        tries += [(clean + length * delta).round() for length in _LENGTHENED]

    def values(levels: Images) -> Images:
        image = levels.clamp(0, LEVELS)
        if ball is not None:
            image = _into_ball(clean.round(), far, image, ball, step)
        return (image / LEVELS * (box[1] - low) + low).to(x.dtype)  # in this order k / 255 itself for the box (0, 1)

    return _first(oracle, map(values, tries), goal)[0]


def onto_type(
    oracle: Oracle,
    x: Images,
    x_adv: Images,
    goal: Goal,
    kind: torch.dtype,
    ball: tuple[Norm, Radius] | None,
    *,
    shorten: bool,
) -> Images:
    """Images of half precision: rounded to the nearest, and for bounded attacks never further from `x` than `x_adv`.

    For minimal-norm attacks the first adversarial image on the way from `x` to a little beyond `x_adv`, or else the
    nearest; with `shorten`, it may lie before `x_adv`.

    Cost: as `onto_grid`.
    """
    near = x_adv.to(kind)
    if ball is not None:
        beyond = (near.to(x.dtype) - x).abs() > (x_adv - x).abs()
        return torch.where(beyond, torch.nextafter(near, x.to(kind)), near).to(x.dtype)
    low, high = torch.minimum(x, x_adv).amin(), torch.maximum(x, x_adv).amax()  # within the box, where there is one
    lengths = (*(_SHORTENED if shorten else ()), 1.0, *_LENGTHENED)
    way = ((x + length * (x_adv - x)).clamp(low, high) for length in lengths)
    image, met = _first(oracle, (each.to(kind).to(x.dtype) for each in way), goal)
    return torch.where(column(met, x), image, near.to(x.dtype))


def _first(oracle: Oracle, tries: Iterator[Images], goal: Goal) -> tuple[Images, Flags]:
    """Image by image the first try that is adversarial, or else the first of all, and whether it is adversarial."""
    x_adv = next(tries)
    which = torch.where(~goal.met(oracle.decisions(x_adv)))[0]
    while len(which):
        each = next(tries, None)
        if each is None:
            break
        met = goal[which].met(oracle.decisions(each[which], which))
        x_adv[which[met]] = each[which[met]]
        which = which[~met]
    adversarial = torch.ones(len(x_adv), dtype=torch.bool, device=x_adv.device)
    adversarial[which] = False
    return x_adv, adversarial


def _into_ball(clean: Images, far: Images, image: Images, ball: tuple[Norm, Radius], step: float) -> Images:
    """The levels `image`, moved towards the clean image where they are outside the ball, of radius eps / step."""
    norm, eps = ball
    radius = per_image(eps, clean) / (1 if norm.name == "L0" else step) + 1e-6
    if norm is Linf:
        return torch.minimum(torch.maximum(image, (clean - radius).ceil()), (clean + radius).floor())
    inward = clean + (far - clean).trunc()  # on the grid, and no entry further off than where the attack had it
    size = column(norm.size(image - clean), clean)
    return torch.where(size <= radius, image, inward)

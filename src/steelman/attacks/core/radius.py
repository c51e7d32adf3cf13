"""Radii that are no bound, since the box is narrower."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from steelman.norms import Linf, Norm
from steelman.types import Box, Radius


def check_radius(norm: Norm | None, eps: Radius | None, box: Box | None, where: str = "") -> None:
    """Raises ValueError for a Linf radius that is larger than the width of the box, such as 8 for 8/255.

    norm   of the radius; None is Linf
    eps    of one or of several images; None is no radius
    box    the valid range of the images; without one any radius is a bound
    where  what begins the message, such as an attack's name
    """
    if eps is None or box is None or (norm or Linf) is not Linf:
        return
    most, width = float(eps.max()) if isinstance(eps, Tensor) else float(eps), box[1] - box[0]
    if not most > width * (1 + 1e-6):
        return
    meant = f"{most:g}/255" if width == 1 else f"{most / 255 * width:.4g}"
    remedy = f"did you mean {meant}?" if most <= 255 * width else f"give a radius of at most {width:g}"
    wide = f"the width {width:g} of the box [{box[0]:g}, {box[1]:g}]"
    raise ValueError(f"{where}{': ' if where else ''}eps {most:g} in Linf is larger than {wide}: {remedy}")


def check_radii(method: object, where: str = "") -> None:
    """`check_radius` of an attack and of every attack in it, or in the settings of a defence."""
    for path, attack in _attacks(method, where):
        if attack.budget:
            norm, eps = attack.budget
            check_radius(norm, eps, attack.box, path)


def _attacks(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    from steelman.attacks.core.attack import Attack

    if isinstance(value, Attack):
        yield path, value
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _attacks(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _attacks(each, path)
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from _attacks(getattr(value, item.name), f"{path}.{item.name}" if path else item.name)

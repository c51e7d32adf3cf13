"""Which attack fell whom: the worst case, taken apart."""

from dataclasses import dataclass

import numpy as np

from steelman.evaluation.table import CLEAN, ROUNDING, Evaluation
from steelman.norms import Norm


@dataclass(frozen=True)
class Waterfall:
    """How many images each step takes from those that are still right; the steps and `standing` sum to `images`.

    `fell` holds, by attack in the order in which they were run, the images that it was the first to fell.
    """

    norm: Norm
    eps: float
    images: int
    natural_errors: int
    fell: dict[str, int]
    standing: int


def waterfall(evaluation: Evaluation, norm: Norm, eps: float) -> Waterfall:
    """The images that each attack was the first to fell within `eps`, in the order in which the attacks were run.

    What is standing in the end is `robust_accuracy(evaluation, norm, eps)` times the images. So every attack counts
    whose image came out within `eps`, whatever it was after: one that is bounded by a smaller radius, one without a
    radius. Those of this norm and radius are listed even where they fell nobody, the others only where they did.

    Raises:
        ValueError: a negative radius, a table of two spaces, or an image that still stands where an attack of this norm
            and radius comes, and has no row of it.
    """
    if not eps >= 0:
        raise ValueError(f"eps is a radius, at least 0; got {eps}")
    if len(evaluation.spaces) > 1:
        raise ValueError(
            f"the table has two spaces, {' and '.join(evaluation.spaces)}; take evaluation.only(space=...) first"
        )
    clean = evaluation.only(CLEAN)
    order = np.argsort(clean["image"])
    images = clean["image"][order]
    standing = (clean["prediction"] == clean["label"])[order]
    natural_errors = int((~standing).sum())
    fell = {}
    for name in evaluation.attacks:
        rows = evaluation.only(name)
        at = np.searchsorted(images, rows["image"])
        met, hit = np.zeros(len(images), bool), np.zeros(len(images), bool)
        met[at] = True
        bounded = rows["norm"][0] == repr(norm) and rows["eps"][0] <= eps
        near = rows[repr(norm).lower()] <= eps * ROUNDING
        hit[at] = (rows["prediction"] != rows["label"]) & (bounded | near)
        own = bounded and rows["eps"][0] == eps
        if own and (standing & ~met).any():
            raise ValueError(
                f"{int((standing & ~met).sum())} images stand before {name} and did not meet it, so nobody knows "
                f"whether they stand after it; evaluate them too"
            )
        first = standing & hit
        if own or first.any():
            fell[name] = int(first.sum())
        standing = standing & ~first
    return Waterfall(norm, eps, len(images), natural_errors, fell, int(standing.sum()))

"""Which attack broke which images: the robust accuracy, taken apart."""

from dataclasses import dataclass

from steelman.measures.rows import rows
from steelman.norms import Norm
from steelman.table.schema import ROUNDING
from steelman.table.table import Evaluation


@dataclass(frozen=True)
class Waterfall:
    """How many images each step takes from those that are still right; the steps and `standing` sum to `images`.

    `felled` holds, by attack in the order in which they were run, the images that it was the first to break.
    """

    norm: Norm
    eps: float
    images: int
    natural_errors: int
    felled: dict[str, int]
    standing: int


def waterfall(evaluation: Evaluation, norm: Norm, eps: float) -> Waterfall:
    """The images that each attack was the first to break within `eps`, in the order in which the attacks were run.

    What is standing in the end is `robust_accuracy(evaluation, norm, eps)` times the images. So every attack counts
    whose image came out within `eps`, whatever it was after: one that is bounded by a smaller radius, one without a
    radius. Those of this norm and radius are listed even where they broke none, the others only where they did.

    Raises:
        Unmeasured: as for `robust_accuracy`.
        ValueError: a negative radius, or a table of two spaces.
    """
    if not eps >= 0:
        raise ValueError(f"eps is a radius, at least 0; got {eps}")
    seen = rows(evaluation)
    standing = ~seen.wrong
    felled = {}
    for attack in seen.chosen(None):
        first = standing & attack.found & (attack.size(repr(norm)) <= eps * ROUNDING)
        if first.any() or (attack.norm, attack.eps) == (repr(norm), eps):
            felled[attack.name] = int(first.sum())
        standing = standing & ~first
    return Waterfall(norm, eps, len(seen.images), int(seen.wrong.sum()), felled, int(standing.sum()))

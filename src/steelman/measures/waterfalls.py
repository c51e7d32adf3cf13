"""Which attack broke which images: the robust accuracy, taken apart."""

from dataclasses import dataclass

from steelman.measures.rows import rows
from steelman.norms import Norm
from steelman.table.table import Evaluation


@dataclass(frozen=True)
class Waterfall:
    """How many images each step takes from those that are still right; all steps and `still_correct` sum to `images`.

    `broken` holds, by attack in the order in which they were run, the images that it was the first to break.
    """

    norm: Norm
    eps: float
    images: int
    natural_errors: int
    broken: dict[str, int]
    still_correct: int


def waterfall(evaluation: Evaluation, norm: Norm, eps: float) -> Waterfall:
    """The images that each attack was the first to break within `eps`, in the order in which the attacks were run.

    `still_correct` is `robust_accuracy(evaluation, norm, eps)` times the images; of a random model, images count by
    their most frequent answers, and not by a probability. So every attack counts whose image came out within `eps`,
    whatever its own goal: one that is bounded by a smaller radius, one without a radius. Those of this norm and radius
    are listed even where they broke none, the others only where they did.

    Raises:
        Unmeasured: as for `robust_accuracy`.
        ValueError: a negative radius.
    """
    if not eps >= 0:
        raise ValueError(f"eps is a radius, at least 0; got {eps}")
    table = rows(evaluation)
    left = ~table.wrong
    broken = {}
    for attack in table.chosen(None):
        first = left & attack.within(repr(norm), eps)
        if first.any() or (attack.norm, attack.eps) == (repr(norm), eps):
            broken[attack.name] = int(first.sum())
        left = left & ~first
    return Waterfall(norm, eps, len(left), int(table.wrong.sum()), broken, int(left.sum()))

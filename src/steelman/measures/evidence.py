"""What the signs are read from: the images that attacks broke within a radius, and how attacks compare there."""

from collections.abc import Iterable, Sequence

import numpy as np

from steelman.measures.chance import LEVEL, above_chance
from steelman.measures.rows import Attacked
from steelman.table.records import Record
from steelman.table.schema import ROUNDING

TAU = 0.01
"""By how much accuracies must differ, and how many images must be left, for a sign to be present: 1 % of them."""

THOROUGH = 20
"""Gradient passes from which on an attack that left an image counts as one that tried."""

UNBOUNDED = {"ALMA", "CarliniWagner", "DDN", "DeepFool", "FMN"}
"""Minimal attacks that find an adversarial image wherever there is a gradient to follow."""


def is_adaptive(record: Record) -> bool:
    """Whether an attack was made for one suspected model. It acts on a suspicion, and is no evidence for it."""
    return record.kind.rpartition(":")[2] == "Adaptive"


Answer = tuple[str, bool | None]
"""The numbers, and whether the sign is present."""


def threats(runs: Iterable[Attacked]) -> list[tuple[str, float]]:
    """Norms and radii of bounded attacks; in norms with minimal ones alone, the median size of what they found."""
    runs = [run for run in runs if run.norm is not None]
    found = {(str(run.norm), run.eps) for run in runs if run.bounded}
    for norm in {str(run.norm) for run in runs} - {norm for norm, _ in found}:
        sizes = np.minimum.reduce([np.where(run.broken, run.size(norm), np.inf) for run in runs if run.norm == norm])
        if np.isfinite(sizes).any():
            found.add((norm, float(np.median(sizes[np.isfinite(sizes)]))))
    return sorted(found)


def within(run: Attacked, eps: float = np.inf, share: float | None = None) -> np.ndarray:
    """The images that were right unattacked and that an attack broke within a radius; by the most frequent answer, or
    in more than a share of the answers."""
    broken = run.broken if share is None else run.broken_in(share)
    return broken & ((run.eps <= eps) | (run.size(run.norm or "L2") <= eps * ROUNDING))


def any_of(runs: Iterable[Attacked], eps: float | None = None, share: float | None = None) -> np.ndarray:
    """The images that at least one of the attacks broke, within a radius if there is one; see `within`."""
    if eps is not None:
        return np.logical_or.reduce([within(run, eps, share) for run in runs])
    return np.logical_or.reduce([run.broken if share is None else run.broken_in(share) for run in runs])


def left(run: Attacked, eps: float = np.inf) -> int:
    return int((~run.wrong & ~within(run, eps)).sum())


def described(run: Attacked, eps: float = np.inf) -> str:
    return f"{run.name} leaves {percent(left(run, eps) / len(run.row))}"


def percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def at(runs: Iterable[Attacked], knowledge: str, norm: str, eps: float) -> list[Attacked]:
    """The attacks of a kind at a norm and radius: bounded by it, or minimal."""
    return [
        run
        for run in runs
        if run.record.knowledge == knowledge and run.norm == norm and (not run.bounded or run.eps == eps)
    ]


def complete(runs: Iterable[Attacked]) -> list[Attacked]:
    """The attacks that skipped no image."""
    return [run for run in runs if not run.skipped.any()]


def worst(answers: Iterable[tuple[float, Answer]]) -> Answer | None:
    """The answer that is most of a sign: present before absent before not known, and by how much."""
    ranks = {True: 2, False: 1, None: 0}
    best = max(answers, key=lambda each: (ranks[each[1][1]], each[0]), default=None)
    return None if best is None else best[1]


def beats(run: Attacked, other: Attacked, eps: float = np.inf) -> tuple[float, bool]:
    """By how much accuracy is lower under the first, and whether that is more than tau and than chance."""
    first, second = within(run, eps), within(other, eps)
    alone, others = int((first & ~second).sum()), int((second & ~first).sum())
    lower = (alone - others) / len(run.row)
    return lower, lower > TAU and above_chance(alone, alone + others, 0.5) < LEVEL


def compare(runs: Sequence[Attacked], others: Sequence[Attacked], norm: str, eps: float) -> tuple[float, Answer]:
    """The strongest of some attacks against the strongest of others."""
    run, other = (max(some, key=lambda each: int(within(each, eps).sum())) for some in (runs, others))
    lower, sure = beats(run, other, eps)
    chance = "; with so few images that may be chance" if lower > TAU and not sure else ""
    return lower, (f"{described(run, eps)}, {described(other, eps)} ({norm} {eps:.4g}){chance}", sure)


def only(runs: Sequence[Attacked], others: Sequence[Attacked], norm: str, eps: float) -> tuple[float, Answer]:
    """Whether more than tau of the images were broken by some attacks and by none of the others.

    A random model answers wrong in more than 3/4 of the draws after one of the first, and in at most 1/4 after all of
    the others: what errs half of the time would be broken by one attack or the other by chance.
    """
    images = len(runs[0].row)
    alone = any_of(runs, eps, 0.75) & ~any_of(others, eps, 0.25)
    attacked = np.logical_and.reduce([~run.skipped for run in others])
    known, perhaps = int((alone & attacked).sum()), int((alone & ~attacked).sum())
    names, white = ", ".join(run.name for run in runs), ", ".join(run.name for run in others)
    numbers = f"{known} of {images} images were broken by {names} and not by {white} ({norm} {eps:.4g})"
    if perhaps:
        numbers += f"; {perhaps} more were broken, which not all of the latter attacked"
    present = True if above_tau(known, images) else None if above_tau(known + perhaps, images) else False
    return known / images, (numbers, present)


def above_tau(count: int, images: int) -> bool:
    """Whether so many images are more than tau of them, and more than chance explains: a one-sided binomial test."""
    return count / images > TAU and above_chance(count, images, TAU) < LEVEL

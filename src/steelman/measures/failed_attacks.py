"""Signs that an attack failed although gradients may be sound: it was too short, lost what it found, or never moved."""

from collections.abc import Iterable

import numpy as np

from steelman.measures.evidence import (
    Answer,
    above_tau,
    any_of,
    at,
    compare,
    complete,
    only,
    threats,
    within,
    worst,
)
from steelman.measures.rows import Attacked

LATE = 0.75
"""Images that are first broken after this part of the gradient passes show that attacks had not converged."""

LONGER = (2, 4)
"""By how much an attack's steps or restarts must grow for its gain to say something of still more of them."""

MEASURED = 1e-4
"""Cross-entropy below is lost in rounding, so that a rise of it cannot be seen."""
RAISED = 1e-5
"""By what part cross-entropy has to rise: more than the rounding of another batch size."""


def converged(runs: list[Attacked]) -> Answer:
    """Whether more steps and restarts still help."""
    answers = []
    for norm, eps in threats(runs):
        white = at(runs, "white", norm, eps)
        answers += [*_late(white, norm, eps), *_longer(white, norm, eps)]
    return worst(answers) or (
        "needs a gradient attack that stops early and counts its passes, such as APGD(stop_early=True), or one with "
        "two to four times the steps of another",
        None,
    )


def _stops(run: Attacked) -> bool:
    """Whether the passes of an image that it broke say when that was: it left the batch at once."""
    return run.record.core in ("APGD", "PGD", "MIM") and run.record.setting("stop_early") is True


def _late(runs: list[Attacked], norm: str, eps: float) -> list[tuple[float, Answer]]:
    """Images that are first broken late, with passes counted over all attacks that stop early, in their order."""
    stop = [run for run in runs if run.bounded and (_stops(run) or run.record.core == "CascadeAttack")]
    ascents = [run for run in stop if run.column("gradients", 0.0).any()]
    if not ascents:
        return []
    before = any_of([run for run in runs if run not in ascents] or ascents[:1], eps) & (len(ascents) < len(runs))
    images, spent, when = len(before), 0, np.zeros(len(before))
    for run in ascents:
        passes = run.column("gradients", 0.0)
        first = within(run, eps) & ~before
        when[first] = spent + passes[first]
        before |= first
        unbroken = run.attacked & ~run.broken
        spent += int(passes[unbroken].max() if unbroken.any() else passes.max())
    late = int((when > LATE * spent).sum())
    names = ", ".join(run.name for run in ascents)
    numbers = (
        f"{late} of {images} images were first broken in the last quarter of the {spent} gradient passes of {names}"
    )
    return [(late / images, (f"{numbers} ({norm} {eps:.4g})", above_tau(late, images)))]


def _longer(runs: Iterable[Attacked], norm: str, eps: float) -> list[tuple[float, Answer]]:
    """The longest of attacks that differ in steps and restarts alone, against one that is a half to a quarter of it."""
    families: dict[str, list[tuple[int, Attacked]]] = {}
    for run in runs:
        if run.bounded and run.record.steps:
            turns = run.record.setting("restarts") or 1
            families.setdefault(run.record.kin, []).append((run.record.steps * turns, run))
    answers = []
    for family in families.values():
        longest, run = max(family, key=lambda each: each[0])
        shorter = [other for passes, other in family if LONGER[0] * passes <= longest <= LONGER[1] * passes]
        if not shorter:
            continue
        if complete([run]) and complete(shorter):
            answers.append(compare([run], complete(shorter), norm, eps))
        else:
            answers.append(only([run], shorter, norm, eps))
    return answers


def lost(runs: list[Attacked]) -> Answer:
    """Whether searches stopped at a success that the returned image is not."""
    answers = []
    for run in runs:
        core = run.record.core
        if not run.bounded or not (_stops(run) or (core == "Square" and run.record.setting("stop_early") is True)):
            continue
        passes = run.column("forwards" if core == "Square" else "gradients", 0.0)
        if not passes.any():
            continue
        images = len(passes)
        gone = int((run.attacked & ~run.column("success", 1.0).astype(bool) & (passes < passes.max())).sum())
        numbers = f"{run.name} met its goal on {gone} of {images} images for which it returned none that meets it"
        answers.append((gone / images, (numbers, above_tau(gone, images))))
    return worst(answers) or ("needs an attack that stops early and counts its passes, such as APGD or Square", None)


def still(runs: list[Attacked], clean: Attacked) -> Answer:
    """Whether gradient attacks left images without raising their loss."""
    before, answers = clean.column("loss", np.nan), []
    for norm, eps in threats(runs):
        every = at(runs, "white", norm, eps)
        white = [run for run in every if run.bounded]
        if not white:
            continue
        after = np.array([run.column("loss", np.nan) for run in white])
        remains, highest = ~clean.wrong & ~any_of(every, eps), np.fmax.reduce(after)
        seen = remains & ~np.isnan(before) & ~np.isnan(highest) & (np.fmax(before, highest) > MEASURED)
        if remains.any() and not seen.any():
            continue
        images, count = len(before), int((seen & ~(highest > before * (1 + RAISED))).sum())
        names = ", ".join(run.name for run in white)
        numbers = f"on {count} of {images} images none of {names} raised the loss ({norm} {eps:.4g})"
        answers.append((count / images, (numbers, above_tau(count, images))))
    return worst(answers) or ("needs bounded gradient attacks, and losses that are not lost in rounding", None)

"""The signs of masked gradients and of attacks that failed, read from the table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from steelman.measures.evidence import (
    TAU,
    THOROUGH,
    UNBOUNDED,
    Answer,
    above_tau,
    any_of,
    at,
    beats,
    compare,
    complete,
    is_adaptive,
    left,
    only,
    percent,
    threats,
    worst,
)
from steelman.measures.failed_attacks import converged, lost, still
from steelman.measures.rows import Attacked, rows
from steelman.measures.transfer import Transfer
from steelman.table.table import Evaluation

SIGNS = {
    "one-step": "Does a one-step attack beat an iterative one?",
    "black-box": "Does a black-box attack beat the white-box ones?",
    "unbounded": "Do attacks without a bound leave images correct?",
    "chance": "Do random draws find errors where gradients did not?",
    "radii": "Does accuracy rise with the radius, or not fall to zero?",
    "transfer": "Do images crafted on another model beat the white-box attacks?",
    "decisions": "Does an attack that sees classes alone beat the white-box ones?",
    "convergence": "Do attacks still find errors in the last of their steps and restarts?",
    "lost": "Were adversarial images found and lost?",
    "still": "Do gradient attacks leave images whose loss they did not raise?",
}
"""By name, the question of each sign. Names and numbers, which count from 1 in this order, do not change."""

QUESTIONS = tuple(SIGNS.values())
NO_IMAGE_RIGHT = "no image is right unattacked"


@dataclass(frozen=True)
class Sign:
    """One sign: the question, the numbers that answer it, and whether it is present; None where it was not measured.

    `numbers` has the reason where it was not. `command` measures what the table lacks, where a report knows such a
    command. `name` is that of `SIGNS`.
    """

    question: str
    numbers: str
    present: bool | None
    command: str = ""
    name: str = ""

    @property
    def open(self) -> bool:
        """Whether other attacks could answer it; none can where no image is right."""
        return self.present is None and self.numbers != NO_IMAGE_RIGHT

    @property
    def number(self) -> int:
        """From 1 on; 0 where it is none of `SIGNS`."""
        return list(SIGNS).index(self.name) + 1 if self.name in SIGNS else 0


def signs(evaluation: Evaluation, transfer: Transfer | None = None, *, name: str | None = None) -> tuple[Sign, ...]:
    """The signs that a model is less robust than the attacks in its table say: gradients are masked, or attacks failed.

    With acc the share of images that are right before and after an attack, and tau = 1 % of the images:

    1.  "one-step": acc(one step) < acc(iterative) - tau, of the best attack of either kind at the same norm and radius.
        Where the one-step attack was run on what iterative ones had left: it broke more than tau of the images;
    2.  "black-box": acc(black box) < acc(white box) - tau, the same, of attacks on scores (Square) and others that are
        guided by no gradient. Minimal attacks count with what they found within the radius;
    3.  "unbounded": more than tau is left by all white-box attacks without a bound: in Linf from radius 1 on, or
        minimal ones that had 20 steps or spent 20 gradient passes on the image (black boxes and random draws need no
        gradient for it, and do not count);
    4.  "chance": more than tau of the images are broken by random draws from the ball, and by no white-box attack;
    5.  "radii": along the radii of one attack, acc rises by more than tau, or ends flat above tau: over the last three
        radii or more, the last at least twice the first of them, or at radius 1 in Linf, which is no bound;
    6.  "transfer": as 2, of images that were crafted on other models (`Surrogate`, `Transfer`);
    7.  "decisions": as 2, of attacks that see classes alone (HopSkipJump, BoundaryAttack);
    8.  "convergence": more than tau of the images were first broken in the last quarter of the gradient passes of all
        attacks that stop early (APGD, PGD, MIM); or acc falls by more than tau from one attack to the same with two to
        four times its steps or restarts, where there is no longer one;
    9.  "lost": on more than tau of the images, an attack that stops early did so, since its goal was met, but the image
        that it returned does not meet it: the model answers otherwise when it is asked again;
    10. "still": more than tau of the images are left by white-box attacks none of which raised the loss.

    Where accuracies are compared (1, 2, 6, 7, 8 and the rise of 5), the difference must also be more than chance: an
    exact one-sided sign test, at 5 %, on the images that one of the two alone broke. Where images are counted, their
    share must be above tau by a one-sided binomial test at 5 %: of 100 images from 4 on, of 200 from 6, of 1,000 from
    16.

    An attack's record says whether it is a white box (`knowledge`); a mixture of black and white box (AutoAttack) is
    neither. Attacks that were run only on images that were still correct count where the answer does not depend on the
    images that they skipped. Adaptive attacks, which act on a suspicion, count in none. One sign is enough to suspect a
    model; none is no proof.

    transfer  what images that were crafted on other models do to this one (sign 6)
    name      which of its targets this model is (default: the only one)

    The first five, 6 and 7 are those of the first paper, 8 to 10 after the second; all thresholds are ours.

    Reference: Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 3.1; Maura Pintor, Luca Demetrio, Angelo Sotgiu,
    Ambra Demontis, Nicholas Carlini, Battista Biggio and Fabio Roli, "Indicators of attack failure: debugging and
    improving optimization of adversarial examples", NeurIPS 2022, section 3.

    Raises:
        ValueError: `transfer` has several targets and no `name` is given.
    """
    table = rows(evaluation)
    runs = _counted(table.attacks.values())
    if table.wrong.all() and len(table.attacks):
        return tuple(Sign(question, NO_IMAGE_RIGHT, None, name=each) for each, question in SIGNS.items())
    answers = {
        "one-step": _one_step(runs),
        "black-box": _black_box(runs, "black-box"),
        "unbounded": _unbounded(runs),
        "chance": _chance(runs),
        "radii": _along_radii(runs),
        "transfer": _black_box([*runs], "transfer", _transferred(transfer, name)),
        "decisions": _black_box(runs, "decisions"),
        "convergence": converged(runs),
        "lost": lost(runs),
        "still": still(runs, table.clean),
    }
    return tuple(Sign(question, *answers[each], name=each) for each, question in SIGNS.items())


def threats_of(evaluation: Evaluation) -> list[tuple[str, float]]:
    """The norms and radii at which the signs compare attacks, Linf first."""
    found = threats(_counted(rows(evaluation).attacks.values()))
    return sorted(found, key=lambda threat: (threat[0] != "Linf", threat))


def _counted(runs: Iterable[Attacked]) -> list[Attacked]:
    return [run for run in runs if not is_adaptive(run.record)]


def _one_step(runs: list[Attacked]) -> Answer:
    one, many, minimal = [], [], []
    for run in runs:
        core, steps = run.record.core, run.record.steps
        if core in ("FGSM", "RandomFGSM") or (core in ("PGD", "MIM") and steps == 1):
            one.append(run)
        elif core in ("APGD", "CascadeAttack", "PGD", "MIM") and steps > 1:
            many.append(run)
        elif core in UNBOUNDED:
            minimal.append(run)
    answers = []
    for norm, eps in threats(runs):
        first, second, near = (at(some, "white", norm, eps) for some in (one, many, minimal))
        whole = complete(first), complete(second)
        if all(whole):
            answers.append(compare(*whole, norm, eps))
        elif first and second:
            answers.append(only(first, [*second, *near], norm, eps))
    return worst(answers) or (
        "needs FGSM and PGD at one norm and radius, on every image (sign_attacks has them), or FGSM after PGD",
        None,
    )


def _kind(run: Attacked) -> str:
    """Which sign a black box is for."""
    if {"Surrogate", "CraftedOnSource"} & {run.record.core, *run.record.kinds()}:
        return "transfer"
    return "decisions" if run.record.core in ("HopSkipJump", "BoundaryAttack") else "black-box"


_NEEDS = {
    "black-box": "a black-box attack on scores (Square)",
    "transfer": "images crafted on another model (Surrogate, or a transfer)",
    "decisions": "an attack on classes alone (HopSkipJump, BoundaryAttack)",
}


def _black_box(runs: list[Attacked], kind: str, more: Sequence[list[Attacked]] = ()) -> Answer:
    """Black boxes of a kind against white ones, in the table and in `more` tables."""
    answers = [answer for some in (runs, *more) for answer in _black_against_white(some, kind)]
    return worst(answers) or (f"needs {_NEEDS[kind]} and a white-box attack of the same norm and radius", None)


def _transferred(transfer: Transfer | None, name: str | None) -> Sequence[list[Attacked]]:
    """The attacks in a transfer's table of one target."""
    if transfer is None:
        return ()
    targets = list(transfer.targets)
    if name is None and len(targets) != 1:
        raise ValueError(f"which of the transfer's targets is it? give name, one of {', '.join(targets)}")
    target = targets[0] if name is None else name
    return [list(rows(transfer.tables[target]).attacks.values())] if target in targets else ()


def _black_against_white(runs: list[Attacked], kind: str) -> list[tuple[float, Answer]]:
    answers = []
    runs = [run for run in runs if run.record.knowledge == "white" or _kind(run) == kind]
    for norm, eps in threats(run for run in runs if run.record.knowledge in ("white", "black")):
        black, white = (at(runs, knowledge, norm, eps) for knowledge in ("black", "white"))
        whole = complete(black), complete(white)
        if all(whole):
            answers.append(compare(*whole, norm, eps))
        elif black and white:
            answers.append(only(black, white, norm, eps))
    return answers


def _unbounded(runs: list[Attacked]) -> Answer:
    white = [run for run in runs if run.record.knowledge == "white"]
    free = [run for run in white if run.bounded and run.norm == "Linf" and run.eps >= 1]
    minimal = [run for run in white if not run.bounded and run.record.core in UNBOUNDED]
    every = free + minimal
    if not every:
        return "needs PGD(eps=1, random_start=False), or a minimal attack such as FMN", None
    correct = ~every[0].wrong & ~any_of(every, share=0.25)  # a random model's nearest errors are right half of the time
    tried = [~run.skipped for run in free]
    tried += [
        ~run.skipped & ((run.record.steps >= THOROUGH) | (run.column("gradients", 0.0) >= THOROUGH)) for run in minimal
    ]
    # An image that an unbounded attack skipped had been broken by another.
    asked = np.logical_or.reduce(tried) & np.logical_and.reduce([~run.skipped for run in every])
    unknown = correct & ~asked & ~any_of(white)
    images, sure, perhaps = len(correct), int((correct & asked).sum()), int(unknown.sum())
    numbers = f"{', '.join(run.name for run in every)} leave{'s' * (len(every) == 1)} {percent(sure / images)}"
    if perhaps:
        numbers += (
            f"; {percent(perhaps / images)} more were not attacked so, or in fewer than {THOROUGH} gradient passes"
        )
    present = True if above_tau(sure, images) else None if above_tau(sure + perhaps, images) else False
    return numbers, present


def _chance(runs: list[Attacked]) -> Answer:
    answers = []
    for norm, eps in threats(run for run in runs if run.record.knowledge == "chance"):
        draws, white = (at(runs, knowledge, norm, eps) for knowledge in ("chance", "white"))
        if draws and white:
            answers.append(only(draws, white, norm, eps))
    return worst(answers) or (
        "needs UniformNoise of 1,000 draws and more, and PGD of the same norm and radius",
        None,
    )


def _along_radii(runs: list[Attacked]) -> Answer:
    families: dict[tuple[str, str | None], list[Attacked]] = {}
    for run in complete(runs):
        if run.record.knowledge == "white" and run.bounded and run.norm is not None:
            families.setdefault((run.record.family, run.norm), []).append(run)
    answers = [_along(sorted(family, key=lambda run: run.eps)) for family in families.values() if len(family) > 1]
    return worst(answers) or ("needs one attack at several radii, on every image", None)


def _along(runs: list[Attacked]) -> tuple[float, Answer]:
    """One attack along its radii."""
    last, images = runs[-1], len(runs[-1].row)
    there = [left(run) for run in runs]
    numbers = (
        f"{runs[0].record.core} leaves {', '.join(f'{100 * each / images:.1f}' for each in there)} % at {last.norm} "
        f"{', '.join(f'{run.eps:.4g}' for run in runs)}"
    )
    rises = [beats(small, large) for small, large in pairwise(runs)]
    if any(sure for _, sure in rises):
        return max(rises)[0], (numbers + "; it rises", True)
    end = there[-1] / images
    if end <= TAU:
        return 0.0, (numbers, False)
    if last.norm == "Linf" and last.eps >= 1:
        return end, (numbers + ", which is no bound", True)
    flat = [run for run, each in zip(runs[:-2], there, strict=False) if each <= there[-1] and last.eps >= 2 * run.eps]
    if flat:
        return end, (f"{numbers}; from {flat[0].eps:.4g} on it is flat", True)
    return end, (f"{numbers}; whether it falls to zero is not known, a larger radius would show it", None)

"""The signs of masked gradients, read from the table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from steelman.measures.chance import more_hits
from steelman.measures.rows import Attacked, rows
from steelman.measures.transfer import Transfer
from steelman.table.schema import ROUNDING
from steelman.table.table import Evaluation

TAU = 0.01
"""By how much accuracies must differ, and how many images must be left, for a sign to be present: 1 % of them."""

QUESTIONS = (
    "Does a one-step attack beat an iterative one?",
    "Does a black-box attack beat the white-box ones?",
    "Do attacks without a bound leave images correct?",
    "Do random draws find errors where gradients did not?",
    "Does accuracy rise with the radius, or not fall to zero?",
)
NO_IMAGE_RIGHT = "no image is right unattacked"
UNBOUNDED = {"ALMA", "CarliniWagner", "DDN", "DeepFool", "FMN"}
"""Minimal attacks that find an adversarial image wherever there is a gradient to follow."""

Answer = tuple[str, bool | None]
"""The numbers, and whether the sign is present."""


@dataclass(frozen=True)
class Sign:
    """One sign: the question, the numbers that answer it, and whether it is present; None where it was not measured.

    `command` measures what the table lacks, where a report knows such a command.
    """

    question: str
    numbers: str
    present: bool | None
    command: str = ""

    @property
    def open(self) -> bool:
        """Whether other attacks could answer it; none can where no image is right."""
        return self.present is None and self.numbers != NO_IMAGE_RIGHT


def signs(evaluation: Evaluation, transfer: Transfer | None = None, *, name: str | None = None) -> tuple[Sign, ...]:
    """The five signs that a model's gradients are masked, so that it is less robust than gradient attacks say.

    With acc the share of images that are right before and after an attack, and tau = 1 % of the images:

    1. acc(one step) < acc(iterative) - tau, of the best attack of either kind at the same norm and radius;
    2. acc(black box) < acc(white box) - tau, the same. Minimal attacks count with what they found within the radius,
       images crafted on other models as a black box;
    3. more than tau is left by all white-box attacks without a bound: in Linf from radius 1 on, or minimal ones of 20
       steps and more (black boxes and random draws need no gradient for it, and do not count);
    4. more than tau of the images are broken by random draws from the ball, and by no white-box attack in it;
    5. along the radii of one attack, acc rises by more than tau, or ends flat above tau: over the last three radii or
       more, the last at least twice the first of them, or at radius 1 in Linf, which is no bound.

    Where accuracies are compared (1, 2 and the rise of 5), the difference must also be more than chance: a one-sided
    sign test, at 5 %, on the images that one of the two alone broke. An attack's record says whether it is a white box
    (`knowledge`); a mixture of black and white box (AutoAttack) is neither. Attacks that were run only on images that
    were still correct count where the answer does not depend on the images that they skipped. One sign is enough to
    suspect a model; none is no proof.

    transfer  what images that were crafted on other models do to this one (sign 2)
    name      which of its targets this model is (default: the only one)

    The signs are the paper's; all thresholds are ours.

    Reference: Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 3.1.

    Raises:
        ValueError: `transfer` has several targets and no `name` is given.
    """
    runs = list(rows(evaluation).attacks.values())
    if runs and runs[0].wrong.all():
        return tuple(Sign(question, NO_IMAGE_RIGHT, None) for question in QUESTIONS)
    answers = (_one_step(runs), _black_box(runs, transfer, name), _unbounded(runs), _random(runs), _along_radii(runs))
    return tuple(Sign(question, *each) for question, each in zip(QUESTIONS, answers, strict=True))


def threats_of(evaluation: Evaluation) -> list[tuple[str, float]]:
    """The norms and radii at which the signs compare attacks, Linf first."""
    return sorted(_threats(rows(evaluation).attacks.values()), key=lambda threat: (threat[0] != "Linf", threat))


def _threats(runs: Iterable[Attacked]) -> list[tuple[str, float]]:
    """Norms and radii of bounded attacks; in norms with minimal ones alone, the median size of what they found."""
    runs = [run for run in runs if run.norm is not None]
    found = {(str(run.norm), run.eps) for run in runs if run.bounded}
    for norm in {str(run.norm) for run in runs} - {norm for norm, _ in found}:
        sizes = np.minimum.reduce([np.where(run.broken, run.size(norm), np.inf) for run in runs if run.norm == norm])
        if np.isfinite(sizes).any():
            found.add((norm, float(np.median(sizes[np.isfinite(sizes)]))))
    return sorted(found)


def _within(run: Attacked, eps: float = np.inf) -> np.ndarray:
    """The images that were right unattacked and that an attack broke within a radius."""
    return run.broken & ((run.eps <= eps) | (run.size(run.norm or "L2") <= eps * ROUNDING))


def _any(runs: Iterable[Attacked], eps: float | None = None) -> np.ndarray:
    """The images that at least one of the attacks broke, within a radius if there is one."""
    return np.logical_or.reduce([run.broken if eps is None else _within(run, eps) for run in runs])


def _left(run: Attacked, eps: float = np.inf) -> int:
    return int((~run.wrong & ~_within(run, eps)).sum())


def _described(run: Attacked, eps: float = np.inf) -> str:
    return f"{run.name} leaves {_percent(_left(run, eps) / len(run.row))}"


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def _at(runs: Iterable[Attacked], knowledge: str, norm: str, eps: float) -> list[Attacked]:
    """The attacks of a kind at a norm and radius: bounded by it, or minimal."""
    return [
        run
        for run in runs
        if run.record.knowledge == knowledge and run.norm == norm and (not run.bounded or run.eps == eps)
    ]


def _complete(runs: Iterable[Attacked]) -> list[Attacked]:
    """The attacks that skipped no image."""
    return [run for run in runs if not run.skipped.any()]


def _worst(answers: Iterable[tuple[float, Answer]]) -> Answer | None:
    """The answer that is most of a sign: present before absent before not known, and by how much."""
    ranks = {True: 2, False: 1, None: 0}
    best = max(answers, key=lambda each: (ranks[each[1][1]], each[0]), default=None)
    return None if best is None else best[1]


def _beats(run: Attacked, other: Attacked, eps: float = np.inf) -> tuple[float, bool]:
    """By how much accuracy is lower under the first, and whether that is more than tau and than chance."""
    first, second = _within(run, eps), _within(other, eps)
    lower = (int((first & ~second).sum()) - int((second & ~first).sum())) / len(run.row)
    return lower, lower > TAU and more_hits(first, second) < 0.05


def _compare(runs: Sequence[Attacked], others: Sequence[Attacked], norm: str, eps: float) -> tuple[float, Answer]:
    """The strongest of some attacks against the strongest of others."""
    run, other = (max(some, key=lambda each: int(_within(each, eps).sum())) for some in (runs, others))
    lower, sure = _beats(run, other, eps)
    chance = "; with so few images that may be chance" if lower > TAU and not sure else ""
    return lower, (f"{_described(run, eps)}, {_described(other, eps)} ({norm} {eps:.4g}){chance}", sure)


def _only(runs: Sequence[Attacked], others: Sequence[Attacked], norm: str, eps: float) -> tuple[float, Answer]:
    """Whether more than tau of the images were broken by some attacks and by none of the others."""
    images = len(runs[0].row)
    alone = _any(runs, eps) & ~_any(others, eps)
    attacked = np.logical_and.reduce([~run.skipped for run in others])
    sure, perhaps = int((alone & attacked).sum()), int((alone & ~attacked).sum())
    names, white = ", ".join(run.name for run in runs), ", ".join(run.name for run in others)
    numbers = f"{sure} of {images} images were broken by {names} and not by {white} ({norm} {eps:.4g})"
    if perhaps:
        numbers += f"; {perhaps} more were broken, which not all of the latter attacked"
    present = True if sure / images > TAU else None if (sure + perhaps) / images > TAU else False
    return sure / images, (numbers, present)


def _one_step(runs: list[Attacked]) -> Answer:
    one, many = [], []
    for run in _complete(runs):
        core, steps = run.record.core, run.record.steps
        if core in ("FGSM", "RandomFGSM") or (core in ("PGD", "MIM") and steps == 1):
            one.append(run)
        elif core in ("APGD", "PGD", "MIM") and steps > 1:
            many.append(run)
    answers = []
    for norm, eps in _threats(runs):
        first, second = (_at(some, "white", norm, eps) for some in (one, many))
        if first and second:
            answers.append(_compare(first, second, norm, eps))
    return _worst(answers) or (
        "needs FGSM and PGD at one norm and radius, both on every image (sign_attacks has them)",
        None,
    )


def _black_box(runs: list[Attacked], transfer: Transfer | None, name: str | None) -> Answer:
    answers = _black_against_white(runs)
    if transfer is not None:
        targets = list(transfer.targets)
        if name is None and len(targets) != 1:
            raise ValueError(f"which of the transfer's targets is it? give name, one of {', '.join(targets)}")
        target = targets[0] if name is None else name
        if target in targets:
            answers += _black_against_white(list(rows(transfer.tables[target]).attacks.values()))
    return _worst(answers) or (
        "needs a black-box attack (Square, HopSkipJump, Surrogate, or a transfer from other models) "
        "and a white-box one of the same norm and radius",
        None,
    )


def _black_against_white(runs: list[Attacked]) -> list[tuple[float, Answer]]:
    answers = []
    for norm, eps in _threats(run for run in runs if run.record.knowledge in ("white", "black")):
        black, white = (_at(runs, knowledge, norm, eps) for knowledge in ("black", "white"))
        complete = _complete(black), _complete(white)
        if all(complete):
            answers.append(_compare(*complete, norm, eps))
        elif black and white:
            answers.append(_only(black, white, norm, eps))
    return answers


def _unbounded(runs: list[Attacked]) -> Answer:
    white = [run for run in runs if run.record.knowledge == "white"]
    free = [run for run in white if run.bounded and run.norm == "Linf" and run.eps >= 1]
    free += [run for run in white if not run.bounded and run.record.core in UNBOUNDED and run.record.steps >= 20]
    if not free:
        return "needs PGD(eps=1, random_start=False), or a minimal attack such as FMN", None
    attacked = np.logical_and.reduce([~run.skipped for run in free])
    correct = ~free[0].wrong & ~_any(free)
    unknown = correct & ~attacked & ~_any(white)
    left, perhaps = (int(some.sum()) / len(correct) for some in (correct & attacked, unknown))
    numbers = f"{', '.join(run.name for run in free)} leave{'s' * (len(free) == 1)} {_percent(left)}"
    if perhaps:
        numbers += f", and {_percent(perhaps)} more were attacked by a black box or by random draws alone"
    return numbers, True if left > TAU else None if left + perhaps > TAU else False


def _random(runs: list[Attacked]) -> Answer:
    answers = []
    for norm, eps in _threats(run for run in runs if run.record.knowledge == "chance"):
        draws, white = (_at(runs, knowledge, norm, eps) for knowledge in ("chance", "white"))
        if draws and white:
            answers.append(_only(draws, white, norm, eps))
    return _worst(answers) or (
        "needs UniformNoise of 1,000 draws and more, and PGD of the same norm and radius",
        None,
    )


def _along_radii(runs: list[Attacked]) -> Answer:
    families: dict[tuple[str, str | None], list[Attacked]] = {}
    for run in _complete(runs):
        if run.record.knowledge == "white" and run.bounded and run.norm is not None:
            families.setdefault((run.record.family, run.norm), []).append(run)
    answers = [_along(sorted(family, key=lambda run: run.eps)) for family in families.values() if len(family) > 1]
    return _worst(answers) or ("needs one attack at several radii, on every image", None)


def _along(runs: list[Attacked]) -> tuple[float, Answer]:
    """One attack along its radii."""
    last, images = runs[-1], len(runs[-1].row)
    left = [_left(run) for run in runs]
    numbers = (
        f"{runs[0].record.core} leaves {', '.join(f'{100 * each / images:.1f}' for each in left)} % at {last.norm} "
        f"{', '.join(f'{run.eps:.4g}' for run in runs)}"
    )
    rises = [_beats(small, large) for small, large in pairwise(runs)]
    if any(sure for _, sure in rises):
        return max(rises)[0], (numbers + "; it rises", True)
    end = left[-1] / images
    if end <= TAU:
        return 0.0, (numbers, False)
    if last.norm == "Linf" and last.eps >= 1:
        return end, (numbers + ", which is no bound", True)
    flat = [run for run, each in zip(runs[:-2], left, strict=False) if each <= left[-1] and last.eps >= 2 * run.eps]
    if flat:
        return end, (f"{numbers}; from {flat[0].eps:.4g} on it is flat", True)
    return end, (f"{numbers}; whether it falls to zero is not known, a larger radius would show it", None)

"""The signs of masked gradients, read from the table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from steelman.measures.rows import Attacked, rows
from steelman.measures.transfer import Transfer
from steelman.table.schema import ROUNDING
from steelman.table.table import Evaluation

TAU = 0.01
"""By how much accuracies must differ, and how much must be left, for a sign to be there: 1 % of the images."""

QUESTIONS = (
    "Does a one-step attack beat an iterative one?",
    "Does a black-box attack beat the white-box ones?",
    "Does an attack without bound leave images standing?",
    "Does chance find errors where gradients did not?",
    "Does accuracy rise with the radius, or not fall to nothing?",
)


NOTHING_LEFT = "not asked: no image is right unattacked"


@dataclass(frozen=True)
class Sign:
    """One sign: what is asked, the numbers that answer it, and whether it is there; None where nothing was measured.

    `ask` is the command that asks what the table leaves open, where a report knows it.
    """

    question: str
    numbers: str
    found: bool | None
    ask: str = ""

    @property
    def open(self) -> bool:
        """Whether other attacks could answer it; none can where no image is right."""
        return self.found is None and self.numbers != NOTHING_LEFT


def signs(evaluation: Evaluation, transfer: Transfer | None = None, *, name: str | None = None) -> tuple[Sign, ...]:
    """The five signs that a model's gradients are masked, so that it is less robust than gradient attacks say.

    With acc the share of images that are right before and after an attack, and tau = 1 % of the images:

    1. acc(one step) < acc(iterative) - tau, of the best attack of either kind at the same norm and radius;
    2. acc(black box) < acc(white box) - tau, the same. Minimal attacks count with what they found within the radius,
       images crafted on other models as a black box;
    3. more than tau is left by all white-box attacks without bound: in Linf from radius 1 on, or minimal ones of 20
       steps and more (a black box and chance reach such a goal without a gradient, and play no part);
    4. more than tau of the images fall to random draws from the ball, and to no white-box attack in it;
    5. along the radii of one attack, acc rises by more than tau, or ends flat above tau: over the last three radii or
       more, the last at least twice the first of them, or at radius 1 in Linf, which is no bound.

    Where accuracies are compared (1, 2 and the rise of 5), the difference must also be more than chance: a one-sided
    sign test, at 5 %, on the images that fell to one of the two alone. What an attack goes by, its record says (`how`);
    a mixture of black and white box (AutoAttack) is neither. Attacks that met only what others had left count where the
    answer does not hang on the images that they did not meet. One sign is enough to suspect a model; none is no proof.

    transfer  what images that were crafted on other models do to this one (sign 2)
    name      which of its targets this model is (default: the only one)

    The signs are the paper's; all thresholds are ours.

    Reference: Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 3.1.

    Raises:
        ValueError: `transfer` has several targets, and no `name` says which is meant.
    """
    runs = list(rows(evaluation).attacks.values())
    if runs and runs[0].wrong.all():
        return tuple(Sign(question, NOTHING_LEFT, None) for question in QUESTIONS)
    found = (_one_step(runs), _black_box(runs, transfer, name), _unbounded(runs), _chance(runs), _radii(runs))
    return tuple(Sign(question, *each) for question, each in zip(QUESTIONS, found, strict=True))


_UNBOUNDED = {"ALMA", "CarliniWagner", "DDN", "DeepFool", "FMN"}
"""Minimal attacks that find something wherever there is a gradient to follow."""


_Answer = tuple[str, bool | None]


def _within(run: Attacked, eps: float = np.inf) -> np.ndarray:
    """The images that were right unattacked and that an attack broke within a radius."""
    return run.broke & ((run.eps <= eps) | (run.size(run.norm or "L2") <= eps * ROUNDING))


def _left(run: Attacked, eps: float = np.inf) -> int:
    return int((~run.wrong & ~_within(run, eps)).sum())


def _told(run: Attacked, eps: float = np.inf) -> str:
    return f"{run.name} leaves {_percent(_left(run, eps) / len(run.row))}"


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def threats_of(evaluation: Evaluation) -> list[tuple[str, float]]:
    """The norms and radii of which the signs speak, Linf first."""
    return sorted(_threats(rows(evaluation).attacks.values()), key=lambda threat: (threat[0] != "Linf", threat))


def _threats(runs: Iterable[Attacked]) -> list[tuple[str, float]]:
    """The norms and radii of bounded attacks; in norms that have minimal ones alone, the median of what these found."""
    runs = [run for run in runs if run.norm is not None]
    found = {(str(run.norm), run.eps) for run in runs if run.bounded}
    for norm in {run.norm for run in runs} - {norm for norm, _ in found}:
        sizes = np.minimum.reduce(
            [np.where(run.broke, run.size(run.norm or "L2"), np.inf) for run in runs if run.norm == norm]
        )
        if np.isfinite(sizes).any():
            found.add((str(norm), float(np.median(sizes[np.isfinite(sizes)]))))
    return sorted(found)


def _at(runs: Iterable[Attacked], how: str, norm: str, eps: float) -> list[Attacked]:
    """The attacks of a kind that speak of a norm and radius: bounded by it, or minimal."""
    return [
        run for run in runs if run.record.knowledge == how and run.norm == norm and (not run.bounded or run.eps == eps)
    ]


def _strongest(runs: Iterable[Attacked], eps: float = np.inf) -> Attacked:
    return max(runs, key=lambda run: int(_within(run, eps).sum()))


def _beats(run: Attacked, other: Attacked, eps: float = np.inf) -> tuple[float, bool]:
    """By how much accuracy is lower under the first, and whether that is more than tau and than chance."""
    from scipy.stats import binomtest

    first, second = _within(run, eps), _within(other, eps)
    alone, others = int((first & ~second).sum()), int((second & ~first).sum())
    lower = (alone - others) / len(run.row)
    sure = lower > TAU and binomtest(alone, alone + others, alternative="greater").pvalue < 0.05
    return lower, bool(sure)


def _alone(runs: Sequence[Attacked], others: Sequence[Attacked], eps: float) -> tuple[int, int]:
    """How many fell to `runs` and to none of `others`; and how many may have, whom not all of these have met."""
    alone = np.logical_or.reduce([_within(run, eps) for run in runs])
    alone &= ~np.logical_or.reduce([_within(run, eps) for run in others])
    met = np.logical_and.reduce([~run.spared for run in others])
    return int((alone & met).sum()), int((alone & ~met).sum())


def _worst(answers: Iterable[tuple[float, _Answer]]) -> _Answer | None:
    """The answer that is most of a sign: found before not found before not known, and by how much."""
    ranks = {True: 2, False: 1, None: 0}
    best = max(answers, key=lambda each: (ranks[each[1][1]], each[0]), default=None)
    return None if best is None else best[1]


def _compared(run: Attacked, other: Attacked, norm: str, eps: float) -> tuple[float, _Answer]:
    lower, sure = _beats(run, other, eps)
    chance = "; with so few images that may be chance" if lower > TAU and not sure else ""
    return lower, (f"{_told(run, eps)}, {_told(other, eps)} ({norm} {eps:.4g}){chance}", sure)


def _one_step(runs: list[Attacked]) -> _Answer:
    ones = [
        run
        for run in runs
        if run.record.core in ("FGSM", "RandomFGSM") or (run.record.core in ("PGD", "MIM") and run.record.steps == 1)
    ]
    many = [run for run in runs if run.record.core in ("APGD", "MIM", "PGD") and run.record.steps > 1]
    ones, many = ([run for run in some if not run.spared.any()] for some in (ones, many))
    answers = []
    for norm, eps in _threats(runs):
        first, second = (_at(some, "white", norm, eps) for some in (ones, many))
        if first and second:
            answers.append(_compared(_strongest(first), _strongest(second), norm, eps))
    return _worst(answers) or (
        "not asked: it needs FGSM and PGD at one norm and radius, both on every image (sign_attacks has them)",
        None,
    )


def _black_box(runs: list[Attacked], transfer: Transfer | None, name: str | None) -> _Answer:
    answers = _black_beats_white(runs)
    if transfer is not None:
        targets = list(transfer.targets)
        if name is None and len(targets) != 1:
            raise ValueError(f"which of the transfer's targets is it? give name, one of {', '.join(targets)}")
        target = targets[0] if name is None else name
        if target in targets:
            answers += _black_beats_white(list(rows(transfer.tables[target]).attacks.values()))
    return _worst(answers) or (
        "not asked: it needs a black-box attack (Square, HopSkipJump, Surrogate, or a transfer from other models) and "
        "a white-box one of the same norm and radius",
        None,
    )


def _black_beats_white(runs: list[Attacked]) -> list[tuple[float, _Answer]]:
    answers = []
    for norm, eps in _threats(run for run in runs if run.record.knowledge in ("white", "black")):
        black, white = (_at(runs, how, norm, eps) for how in ("black", "white"))
        whole = [[run for run in some if not run.spared.any()] for some in (black, white)]
        if all(whole):
            answers.append(_compared(_strongest(whole[0], eps), _strongest(whole[1], eps), norm, eps))
        elif black and white:
            answers.append(_only(black, white, norm, eps))
    return answers


def _only(runs: Sequence[Attacked], others: Sequence[Attacked], norm: str, eps: float) -> tuple[float, _Answer]:
    """Whether more than tau of the images fell to some attacks alone."""
    alone, perhaps = _alone(runs, others, eps)
    images = len(runs[0].row)
    names, white = ", ".join(run.name for run in runs), ", ".join(run.name for run in others)
    numbers = f"{alone} of {images} images fell to {names} and not to {white} ({norm} {eps:.4g})"
    if perhaps:
        numbers += f"; {perhaps} more fell, which not all of these met"
    found = True if alone / images > TAU else None if (alone + perhaps) / images > TAU else False
    return alone / images, (numbers, found)


def _unbounded(runs: list[Attacked]) -> _Answer:
    free = [
        run
        for run in runs
        if run.record.knowledge == "white"
        and (
            (run.record.core in _UNBOUNDED and run.record.steps >= 20)
            if not run.bounded
            else (run.norm == "Linf" and run.eps >= 1)
        )
    ]
    if not free:
        return "not asked: it needs PGD(eps=1, random_start=False), or a minimal attack such as FMN", None
    met = np.logical_and.reduce([~run.spared for run in free])
    stood = ~free[0].wrong & ~np.logical_or.reduce([run.broke for run in free])
    unknown = stood & ~met & ~np.logical_or.reduce([run.broke for run in runs if run.record.knowledge == "white"])
    left, perhaps = (int(some.sum()) / len(free[0].row) for some in (stood & met, unknown))
    numbers = f"{', '.join(run.name for run in free)} leave{'s' * (len(free) == 1)} {_percent(left)}"
    if perhaps:
        numbers += f", and {_percent(perhaps)} more were met by a black box or by chance alone"
    return numbers, True if left > TAU else None if left + perhaps > TAU else False


def _chance(runs: list[Attacked]) -> _Answer:
    answers = []
    for norm, eps in _threats(run for run in runs if run.record.knowledge == "chance"):
        random, white = (_at(runs, how, norm, eps) for how in ("chance", "white"))
        if random and white:
            answers.append(_only(random, white, norm, eps))
    return _worst(answers) or (
        "not asked: it needs UniformNoise of 1,000 draws and more, and PGD of the same norm and radius",
        None,
    )


def _radii(runs: list[Attacked]) -> _Answer:
    families: dict[tuple[str, str | None], list[Attacked]] = {}
    for run in runs:
        if run.record.knowledge == "white" and run.bounded and not run.spared.any() and run.norm is not None:
            families.setdefault((run.record.family, run.norm), []).append(run)
    answers = [_along(sorted(family, key=lambda run: run.eps)) for family in families.values() if len(family) > 1]
    return _worst(answers) or ("not asked: it needs one attack at several radii, on every image", None)


def _along(runs: list[Attacked]) -> tuple[float, _Answer]:
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
    return end, (f"{numbers}; whether it falls to nothing is not known, a larger radius would tell", None)

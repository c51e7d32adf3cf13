"""What is said first of a model: that its robustness is supported, not established, or broken, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np

from steelman.measures import Measure, clean_accuracy, robust_accuracy
from steelman.measures.accuracies import still_correct
from steelman.measures.audits import audits, suspicions
from steelman.measures.chance import LEVEL, above_chance, chance_level
from steelman.measures.evidence import is_adaptive
from steelman.measures.masking import TAU, Sign
from steelman.measures.rows import rows
from steelman.norms import NORMS
from steelman.report.entry import Entry
from steelman.table.records import Record
from steelman.table.table import Evaluation

Word: TypeAlias = Literal["supported", "not established", "broken by an adaptive attack", "does not classify"]
WORDS: tuple[Word, ...] = get_args(Word)
Threat: TypeAlias = tuple[str, float]
"""A norm and a radius."""

BROKEN = 0.05
"""An adaptive attack breaks a model's claim where it takes away more than this share of the images, or half of those
that the other attacks left; five images at least."""

LEAST = 5
ENOUGH = 2
"""At least so many signs have to be asked, besides those of attacks that failed."""

CONVERGENCE = "convergence"
"""The name of the sign that attacks were stopped too early, which an adaptive attack answers."""

FAILED = (CONVERGENCE, "lost", "still")
"""The signs that an attack failed, which a single attack answers."""


@dataclass(frozen=True)
class Answer:
    """What is known of one model's robustness within one norm and radius.

    word      the answer. Only "supported" states robustness
    threat    the norm and radius; None where no attack was bounded
    robust    the robust accuracy there, under all attacks of the table
    clean     the clean accuracy
    before    the robust accuracy without the adaptive attacks, where there are any
    doubts    why the number is not established
    evidence  what speaks for it: signs that were asked, adaptive attacks that failed
    broken_by what each adaptive attack broke of the images that the others left, and what it assumed
    suspected whether an adaptive attack is due: a sign is present, the check-up warns, attacks get no gradient, the
              table has suspicions (`steelman.measures.audits`), or the model answers at random
    """

    model: str
    word: Word
    threat: Threat | None
    robust: Measure | None
    clean: Measure
    before: Measure | None = None
    doubts: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    broken_by: tuple[str, ...] = ()
    suspected: bool = False

    @property
    def supported(self) -> bool:
        return self.word == "supported"

    @property
    def heading(self) -> str:
        return self.word[0].upper() + self.word[1:]

    @property
    def sentence(self) -> str:
        """All of it in one paragraph, but for the evidence."""
        return " ".join([f"{self.heading}: {self.body}", *self.doubts, *self.broken_by])

    @property
    def body(self) -> str:
        """The number with its interval."""
        if self.threat is None or self.robust is None:
            return "no attack with a radius was run."
        within = threat_name(*self.threat)
        kept = f"{_number(self.robust)} of {self.robust.count:,} images right within {within}"
        without = "" if self.before is None else f" The other attacks left {_share(self.before)}."
        if self.word == "does not classify":
            return f"{self.model} has {_number(self.clean)} of {self.clean.count:,} images right unattacked."
        if self.word == "not established":
            return f"attacks left {kept} (unattacked {_share(self.clean)}), but that is in doubt."
        if self.word == "supported":
            return f"{self.model} keeps {kept}, and has {_share(self.clean)} right unattacked."
        return f"{self.model} keeps {kept} (unattacked {_share(self.clean)}).{without}"

    @property
    def reasons(self) -> tuple[str, ...]:
        return (*self.doubts, *self.broken_by, *self.evidence)


def answer_of(entry: Entry, signs: Sequence[Sign], threat: Threat | None) -> Answer:
    """What a model's table, its signs of masked gradients and its check-up say of its robustness within a radius.

    1. *does not classify*: the clean accuracy is not above chance.
    2. *broken by an adaptive attack*: of the images that the other attacks left, adaptive ones broke more than 5 % of
       all images, or half of those that were left; at least five images either way.
    3. *not established*, where anything speaks against the number: no attack with a radius; a sign of masked gradients;
       fewer than two of these that could be asked; a warning of the check-up; attacks that get no gradient; random
       answers. That an attack had not converged is no doubt any more where adaptive attacks then broke no more than 1 %
       of the images.
    4. *supported* otherwise. That also holds where no image is left.
    """
    table, clean, chance = entry.evaluation, clean_accuracy(entry.evaluation), at_chance(entry)
    robust = None if threat is None else robust_accuracy(table, NORMS[threat[0]], threat[1])
    suspected = (
        any(sign.present for sign in signs)
        or _without_gradients(entry)
        or any((*suspicions(table), *_warnings(entry), *_random(entry)))
    )
    found = Answer(entry.name, "supported", threat, robust, clean, suspected=suspected)
    if chance:
        return replace(found, word="does not classify", doubts=(chance, *_warnings(entry)))
    if threat is None or robust is None:
        return replace(found, word="not established", doubts=_warnings(entry))
    evidence, settled = (*_evidence(signs), *_audited(table, threat)), False
    if adaptive := adaptive_attacks(table, threat):
        others = [name for name in table.attacks if name not in {each.name for each in adaptive}]
        before = robust_accuracy(table, NORMS[threat[0]], threat[1], others)
        left = still_correct(table, NORMS[threat[0]], threat[1], others)
        taken = round((before.value - robust.value) * robust.count)
        broken_by = (_how(table, each, left, threat) for each in adaptive)
        found = replace(found, before=before, broken_by=tuple(each for each in broken_by if each))
        if taken >= LEAST and (taken > BROKEN * robust.count or 2 * taken >= before.value * robust.count):
            return replace(found, word="broken by an adaptive attack", evidence=evidence)
        evidence += (f"Adaptive attacks took away {taken} of {robust.count:,} images.",)
        settled = taken <= TAU * robust.count
    doubts = _doubts(entry, signs, settled=settled)
    return replace(found, word="not established" if doubts else "supported", doubts=doubts, evidence=evidence)


def adaptive_attacks(table: Evaluation, threat: Threat) -> list[Record]:
    """The records of the adaptive attacks within a norm and radius."""
    return [each for each in table.records if is_adaptive(each) and (each.norm, each.eps) == threat]


def at_chance(entry: Entry) -> str:
    """A sentence where clean accuracy is not above chance, by a one-sided binomial test at 5 %."""
    table = rows(entry.evaluation)
    count, right = len(table.label), int((~table.wrong).sum())
    names = entry.evaluation.about.get("classes")
    level = chance_level(table.label, None if names is None else len(names))
    if above_chance(count, count, level) >= LEVEL:  # so few images, or of one class, that no accuracy could show it
        return ""
    p = above_chance(right, count, level)
    if p < LEVEL:
        return ""
    predicted = np.unique(table.clean.column("prediction", -1.0))
    constant = f"Class {int(predicted[0])} is predicted for every image. " if len(predicted) == 1 else ""
    return f"{constant}That is not above chance ({100 * level:.1f} %, one-sided binomial test, p = {p:.2g})."


def threat_name(norm: str, eps: float) -> str:
    return f"{norm} {eps:.4g}"


def _doubts(entry: Entry, signs: Sequence[Sign], *, settled: bool) -> tuple[str, ...]:
    found = []
    for sign in signs:
        if sign.present and not (settled and sign.name == CONVERGENCE):
            found.append(f"{sign.question} Yes: {sign.numbers}.")
    asked = [sign for sign in signs if sign.present is not None]
    if _without_gradients(entry):
        found.append(
            f"Attacks get no gradient, so {len(asked)} of {len(signs)} signs could be asked. If a part of the model "
            "cuts its gradient, put BPDA around it."
        )
    elif len([sign for sign in asked if sign.name not in FAILED]) < ENOUGH:
        found.append(
            f"{len(asked)} of {len(signs)} signs could be asked, too few of them of masked gradients: the batteries "
            "quick, standard, thorough and signs ask more."
        )
    return (*found, *_random(entry), *_warnings(entry))


def _random(entry: Entry) -> tuple[str, ...]:
    draws = entry.evaluation.about.get("draws")
    said = (
        "The model answers at random: it is judged over {} draws, and attacks climb the mean of some, perhaps too few."
    )
    return (said.format(draws),) if draws else ()


def _without_gradients(entry: Entry) -> bool:
    return entry.checkup is not None and entry.checkup.access != "gradients"


def _warnings(entry: Entry) -> tuple[str, ...]:
    warnings = () if entry.checkup is None else entry.checkup.warnings
    listed = "; ".join(f"{each.name}: {each.found.rstrip('.')}" for each in warnings)
    return (f"The check-up warns: {listed}.",) if listed else ()


def _evidence(signs: Sequence[Sign]) -> tuple[str, ...]:
    asked = [sign for sign in signs if sign.present is not None]
    present = sum(bool(sign.present) for sign in asked)
    found = f"{present} {'is' if present == 1 else 'are'} present" if present else "none is present"
    return (f"{len(asked)} of {len(signs)} signs were asked, {found}.",)


def _audited(table: Evaluation, threat: Threat) -> tuple[str, ...]:
    """What was found on a sample, and what made all images worth the attacks that a sample would have got."""
    return (*suspicions(table), *(each.sentence for each in audits(table) if (each.norm, each.eps) == threat))


def _how(table: Evaluation, record: Record, left: np.ndarray, threat: Threat) -> str:
    """What an adaptive attack broke, of the images that the other attacks left, and what it assumed."""
    count = int((rows(table)[record.name].within(*threat) & left).sum())
    assumed = "; ".join((record.settings or {}).get("assumptions") or ())
    return f"{record.name} broke {count}{f' ({assumed})' if assumed else ''}." if count else ""


def _number(measure: Measure) -> str:
    return f"{100 * measure.value:.1f} % [{100 * measure.low:.1f}, {100 * measure.high:.1f}]"


def _share(measure: Measure) -> str:
    return f"{100 * measure.value:.1f} %"

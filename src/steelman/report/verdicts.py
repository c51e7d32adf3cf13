"""The first sentences of a report: each model's answer, their ranking, what was tried, and its limits."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from steelman.evaluation.asking import would_ask
from steelman.measures import Measure, Paired, Unmeasured, paired, robust_accuracy
from steelman.measures.accuracies import threats
from steelman.measures.audits import suspicions
from steelman.measures.chance import LEVEL
from steelman.measures.evidence import is_adaptive
from steelman.measures.masking import Sign
from steelman.measures.masking import signs as find_signs
from steelman.measures.rows import rows
from steelman.norms import NORMS
from steelman.report.answers import WORDS, Answer, Threat, Word, adaptive_attacks, answer_of, threat_name
from steelman.report.entry import Entry
from steelman.table.records import CLEAN

NAMED = 10
"""At most so many missing classes are named."""

Ranking: TypeAlias = Sequence[tuple[str, Measure]]
"""Models, best first, with their robust accuracies."""
Shares = Mapping[Threat, Mapping[str, Measure]]
"""By threat and model, the robust accuracy."""


@dataclass(frozen=True)
class Verdict:
    """One threat model under which all models were attacked: each one's answer and their ranking, in sentences.

    answers   what is known of each model, in the order of the report
    finding   the answer of a single model, or the ranking of several with their answers
    cautions  what else has to be known: classes without images, predictions of classes that the data do not have
    attack    the norm and radius; empty where there is none
    ranking   by model, best first, the robust accuracy within that radius
    against   the best against each other model on the same images, at this threat; empty where these are not the same
    tried     the attacks that were run
    limits    what the numbers do not show, and what speaks for and against them
    """

    answers: tuple[Answer, ...]
    finding: str
    cautions: tuple[str, ...]
    attack: str
    ranking: tuple[tuple[str, Measure], ...]
    against: tuple[tuple[str, Paired], ...]
    tried: tuple[str, ...]
    limits: tuple[str, ...]

    @property
    def answer(self) -> Word:
        """Of the first of the ranking, or of the only model."""
        first = self.ranking[0][0] if self.ranking else self.answers[0].model
        return next(each.word for each in self.answers if each.model == first)

    @property
    def heading(self) -> str:
        """The answer of a single model."""
        return self.answers[0].heading if len(self.answers) == 1 else ""

    @property
    def body(self) -> str:
        """What was found, without the heading."""
        return self.answers[0].body if len(self.answers) == 1 else self.finding

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why a single model's answer is what it is."""
        return self.answers[0].reasons if len(self.answers) == 1 else ()

    @property
    def sentence(self) -> str:
        """The whole verdict: what was found, then why, then the cautions."""
        return " ".join([self.finding, *self.reasons, *self.cautions])

    def text(self, width: int) -> str:
        """The verdict for a terminal of so many columns; a number and its unit stay on one line."""
        from textwrap import fill

        lines = [fill(_unbroken(line), width) for line in (self.finding, *self.cautions)]
        lines += [fill(_unbroken(line), width, initial_indent="- ", subsequent_indent="  ") for line in self.reasons]
        return "\n".join(lines).replace("\u00a0", " ")


def _unbroken(text: str) -> str:
    return text.replace(" %", "\u00a0%")


@dataclass(frozen=True)
class ModelPair:
    """Two models' names, and how they differ on the same images."""

    ours: str
    theirs: str
    paired: Paired

    def __str__(self) -> str:
        return self.paired.sentence(self.ours, self.theirs)


def judged(entries: Sequence[Entry], shares: Shares, signs: Mapping[str, Sequence[Sign]]) -> Verdict:
    """The verdict on entries that are comparable, from their `shared_shares` and their signs of masked gradients.

    An image is robust within a radius if no attack in the table found an adversarial image inside it. The threat is the
    one that was asked for, where that is the same for all; else the strongest: the one with the lowest mean robust
    accuracy, among those under which any model keeps an image right; one at which a single attack was run counts only
    where that holds for all. Each model's answer follows the rules of `answer_of`.
    """
    cautions, tried = _cautions(entries), _tried(entries)
    chosen = _asked(entries, shares) or _strongest(entries, shares)
    threat = None if chosen is None else chosen[0]
    answers = tuple(answer_of(entry, signs[entry.name], threat) for entry in entries)
    if threat is not None and len(entries) == 1:
        answers = (_with_more_to_ask(answers[0], entries[0], signs[entries[0].name], threat),)
    limits = _limits(entries, answers)
    if chosen is None or threat is None:
        finding = "No bounded attack was run on all of these models, so none can be called robust."
        finding = _alone(answers[0]) if len(entries) == 1 else finding
        return Verdict(answers, finding, cautions, "", (), (), tried, limits)
    tables = {entry.name: entry.evaluation for entry in entries}
    ranking = chosen[1]
    (name, best), *others = ranking
    against: tuple[tuple[str, Paired], ...] = ()
    if not any(adaptive_attacks(table, threat) or suspicions(table) for table in tables.values()):  # of one model alone
        with suppress(ValueError):  # not the same attacks
            norm, eps = threat
            against = tuple((other, paired(tables[name], tables[other], (NORMS[norm], eps))) for other, _ in others)
    order = _unsettled(name, *others[0], best, dict(against).get(others[0][0])) if others else ""
    finding = _ranked(answers, ranking, threat, order) if others else _alone(answers[0])
    return Verdict(answers, finding, cautions, threat_name(*threat), ranking, against, tried, limits)


def _alone(answer: Answer) -> str:
    return f"{answer.heading}: {answer.body}"


def _with_more_to_ask(answer: Answer, entry: Entry, signs: Sequence[Sign], threat: Threat) -> Answer:
    """The answer, with the batteries that would ask more signs."""
    access = "gradients" if entry.checkup is None else entry.checkup.access
    more = would_ask(signs, *threat, access, entry.evaluation.records)
    return (
        replace(answer, evidence=(*answer.evidence, f"Of those that were not asked, the battery {more}."))
        if more
        else answer
    )


def only_answer(entry: Entry) -> Answer:
    """The answer of a model alone, without the rest of a report."""
    shares = shared_shares([entry])
    chosen = _asked([entry], shares) or _strongest([entry], shares)
    return answer_of(entry, find_signs(entry.evaluation), None if chosen is None else chosen[0])


def _ranked(answers: Sequence[Answer], ranking: Ranking, threat: Threat, order: str) -> str:
    """Several models from the best to the worst, and which of their numbers are supported."""
    by_name = {each.model: each for each in answers}
    (name, best), *others = ranking
    clean = {each: _share(by_name[each].clean) for each in by_name}
    if best.value == 0:
        unattacked = ", ".join(f"{clean[each]} ({each})" for each, _ in ranking)
        finding = f"No model keeps a single image right within {threat_name(*threat)}; unattacked: {unattacked}."
    else:
        first = "is the most robust: it keeps" if by_name[name].supported and not order else "has the highest number:"
        finding = (
            f"{name} {first} {_share(best)} of the images right within {threat_name(*threat)}, and "
            f"{_share(by_name[name].clean)} unattacked."
        )
        named, more = (others, ()) if len(others) < 5 else (others[:3], others[3:])
        rest = [f"{other} keeps {_share(value)} (unattacked {clean[other]})" for other, value in named]
        if more:
            rest.append(f"{len(more)} more between {_share(more[-1][1])} and {_share(more[0][1])}")
        finding += f" {listed(rest)}.{order}"
    if all(each.supported for each in answers):
        return f"{finding} All are supported."
    groups = {word: [each.model for each in answers if each.word == word] for word in WORDS}
    return " ".join(
        [finding, *(f"{word[0].upper()}{word[1:]}: {listed(names)}." for word, names in groups.items() if names)]
    )


def shared_shares(entries: Sequence[Entry]) -> dict[Threat, dict[str, Measure]]:
    """By norm and radius at which all were attacked, the models' robust accuracies.

    They are under the attacks that all share, and under those of one model each: adaptive ones, and what a suspicion
    led to.
    """
    tables = [entry.evaluation for entry in entries]
    allowed = [threats(table) for table in tables]
    shared = [name for name in tables[0].attacks if all(name in table.attacks for table in tables)]
    same = all(set(table.attacks) == set(shared) for table in tables)
    found = {}
    for norm, eps in allowed[0]:
        if not all(set(each.get((norm, eps), ())) & set(shared) for each in allowed):
            continue
        try:
            found[norm, eps] = {
                entry.name: robust_accuracy(
                    entry.evaluation, NORMS[norm], eps, None if same else _with_own(entry, shared)
                )
                for entry in entries
            }
        except ValueError:  # an attack that not all share has broken images that these skipped
            continue
    return found


def _with_own(entry: Entry, names: Sequence[str]) -> list[str]:
    """With adaptive attacks; with all of its own where these are due to a suspicion."""
    table, warned = entry.evaluation, entry.checkup is not None and bool(entry.checkup.warnings)
    every = bool(suspicions(table)) or (warned and any(each.core == "CascadeAttack" for each in table.records))
    own = (each.name for each in table.records if every or is_adaptive(each))
    return [*names, *(name for name in dict.fromkeys(own) if name != CLEAN and name not in names)]


def model_pairs(entries: Sequence[Entry]) -> tuple[ModelPair, ...]:
    """The first model against each other one, unattacked and within every norm and radius that both have."""
    found = []
    first, *others = entries
    for other in others:
        ours, theirs = first.evaluation, other.evaluation
        for under in (CLEAN, *(threat for threat in threats(ours) if threat in threats(theirs))):
            try:
                pair = paired(ours, theirs, under if isinstance(under, str) else (NORMS[under[0]], under[1]))
            except Unmeasured:
                continue
            found.append(ModelPair(first.name, other.name, pair))
    return tuple(found)


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _unsettled(name: str, other: str, theirs: Measure, best: Measure, pair: Paired | None) -> str:
    """A sentence where the order of the first two may be chance."""
    if pair is not None:
        if pair.p_value < LEVEL:
            return ""
        return (
            f" Image by image, {name} and {other} differ no more than by chance "
            f"(mid-p McNemar p = {pair.p_value:.2g}), so their order is not settled."
        )
    if theirs.high < best.low:
        return ""
    return f" The 95 % intervals of {name} and {other} overlap, so their order is not settled."


def _asked(entries: Sequence[Entry], shares: Shares) -> tuple[Threat, tuple[tuple[str, Measure], ...]] | None:
    """The threat that was asked for, where it is the same for all."""
    (asked, *others) = {entry.asked for entry in entries}
    if others or asked is None or asked not in shares:
        return None
    return asked, _sorted(shares[asked])


def _strongest(entries: Sequence[Entry], shares: Shares) -> tuple[Threat, tuple[tuple[str, Measure], ...]] | None:
    """The threat with the lowest mean robust accuracy, and the models' ranking under it."""
    allowed = [threats(entry.evaluation) for entry in entries]
    tried = {threat: min(len(each[threat]) for each in allowed) for threat in shares}
    found = []
    for threat, models in shares.items():
        if tried[threat] == 1 < max(tried.values()):
            continue  # a single attack, such as along the radii of the battery of the signs
        ranking = _sorted(models)
        mean = sum(measure.value for measure in models.values()) / len(models)
        found.append((ranking[0][1].value == 0, mean, threat, ranking))
    return min(found, key=lambda each: each[:2])[2:] if found else None


def _sorted(models: Mapping[str, Measure]) -> tuple[tuple[str, Measure], ...]:
    return tuple(sorted(models.items(), key=lambda item: -item[1].value))


def _tried(entries: Sequence[Entry]) -> tuple[str, ...]:
    images = entries[0].evaluation.images
    tables = [table for entry in entries for table in entry.spaces.values()]
    kinds: dict[str, tuple[bool, bool]] = {}
    for table in tables:
        for name, attack in rows(table).attacks.items():
            if attack.attacked.any():
                bounded, gradients = kinds.get(name, (False, False))
                kinds[name] = (bounded or attack.bounded, gradients or bool(attack.column("gradients", 0.0).any()))
    skipped = {name for table in tables for name in table.attacks} - set(kinds)
    if not kinds:
        return (f"{_counted(images, 'image')}, unattacked.",)
    bounded = sum(bounded for bounded, _ in kinds.values())
    white = sum(gradients for _, gradients in kinds.values())
    data = {entry.evaluation.about.get("data", "") for entry in entries}
    source = f" of {data.pop()}" if len(data) == 1 and all(data) else ""
    sample = entries[0].evaluation.about.get("sample")
    source += f", a sample {sample['rule']} of {sample['of']:,} (seed {sample['seed']})" if sample else ""
    parts = [f"{_counted(images, 'image')}{source}, {_counted(len(kinds), 'attack')}."]
    within = sorted({threat for entry in entries for threat in threats(entry.evaluation)})
    if bounded:
        parts.append(f"{bounded} within a radius: {listed([threat_name(*each) for each in within])}.")
    if bounded < len(kinds):
        parts.append(f"{len(kinds) - bounded} without, for the smallest perturbation.")
    box = {
        len(kinds): "All used the model's gradients (white box).",
        0: "All used the model's answers alone (black box).",
    }
    mixed = f"{white} used the model's gradients (white box), {len(kinds) - white} its answers alone (black box)."
    parts.append(box.get(white, mixed))
    if len({frozenset(entry.evaluation.attacks) for entry in entries}) > 1:
        parts.append("Not all models were attacked alike: the verdict counts the attacks that all share, measures all.")
    if skipped:
        parts.append(f"{_counted(len(skipped), 'more attack')} had no image left.")
    return tuple(parts)


def _limits(entries: Sequence[Entry], answers: Sequence[Answer]) -> tuple[str, ...]:
    parts = [
        "These are upper bounds: a better attack can only lower them.",
        "Intervals (95 %) are for another sample of images, not for another training.",
    ]
    for entry, answer in zip(entries, answers, strict=True):
        prefix = f"{entry.name}: " if len(entries) > 1 else ""
        parts += [prefix + line for line in answer.reasons] if prefix else []
        made = {place.where for table in entry.spaces.values() for place in table.made}
        if len(made) > 1:
            parts.append(f"{prefix}The table was made in parts, by {len(made)} different versions or machines.")
    return tuple(parts)


def _cautions(entries: Sequence[Entry]) -> tuple[str, ...]:
    sentences = [*(_outside(entry) for entry in entries), _missing(entries[0]), *_same_models(entries)]
    return tuple(sentence for sentence in sentences if sentence)


def _same_models(entries: Sequence[Entry]) -> list[str]:
    """A sentence for each model that stands under several names."""
    names: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for entry in entries:
        if parts := entry.evaluation.about.get("model"):
            names.setdefault(tuple(sorted(parts.items())), []).append(entry.name)
    return [f"{listed(same)} are one model: equal weights and code." for same in names.values() if len(same) > 1]


def _outside(entry: Entry) -> str:
    """A sentence where predictions are classes that the data set does not have; a check-up reports that too."""
    classes = _classes(entry)
    predicted = rows(entry.evaluation).clean.column("prediction", -1.0)
    if classes is None or entry.checkup is not None or not (outside := predicted >= classes).any():
        return ""
    share = 100 * float(outside.mean())
    return f"{share:.3g} % of the predictions of {entry.name} are none of the data set's {classes} classes."


def _classes(entry: Entry) -> int | None:
    names = entry.evaluation.about.get("classes")
    return None if names is None else len(names)


def _missing(entry: Entry) -> str:
    """A sentence that names the classes of which there is no image."""
    label = np.unique(rows(entry.evaluation).label)
    names: list[str] | None = entry.evaluation.about.get("classes")
    if names is None:
        return f"All images are of class {int(label[0])}." if len(label) == 1 < entry.evaluation.images else ""
    missing = [name for place, name in enumerate(names) if place not in label]
    if not missing:
        return ""
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return (
        f"Of {len(missing)} of the {len(names)} classes no image was evaluated: {', '.join(missing[:NAMED])}{more}. "
        "The numbers hold for the other classes only."
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _share(measure: Measure) -> str:
    return f"{100 * measure.value:.1f} %"

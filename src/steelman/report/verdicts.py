"""The first sentences of a report: what is known before any number, the verdict, what was tried, and its limits."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from steelman.measures import Measure, Paired, Unmeasured, clean_accuracy, paired, robust_accuracy
from steelman.measures.accuracies import threats
from steelman.measures.chance import LEVEL, above_chance, chance_level
from steelman.measures.masking import Sign
from steelman.measures.rows import rows
from steelman.norms import NORMS
from steelman.report.entry import Entry
from steelman.table.records import CLEAN

NAMED = 10
"""At most so many missing classes are named."""

Threat = tuple[str, float]
"""A norm and a radius."""
Shares = Mapping[Threat, Mapping[str, Measure]]
"""By threat and model, the robust accuracy."""


@dataclass(frozen=True)
class Verdict:
    """The strongest threat model under which all models were attacked, and their ranking under it, in sentences.

    cautions  what has to be known before any number: a model that does not classify, missing classes, warnings
    finding   what was found
    attack    the norm and radius; empty where there is none
    ranking   by model, best first, the robust accuracy within that radius
    against   the best against each other model on the same images, at this threat; empty where these are not the same
    tried     the attacks that were run
    limits    what the numbers do not show, and what speaks against them
    """

    cautions: tuple[str, ...]
    finding: str
    attack: str
    ranking: tuple[tuple[str, Measure], ...]
    against: tuple[tuple[str, Paired], ...]
    tried: tuple[str, ...]
    limits: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The whole verdict: the cautions, then what was found."""
        return " ".join([*self.cautions, self.finding])

    def text(self, width: int) -> str:
        """The verdict for a terminal of so many columns; a number and its unit stay on one line."""
        from textwrap import fill

        joined = (line.replace(" %", "\u00a0%") for line in (*self.cautions, self.finding))
        return "\n".join(fill(line, width) for line in joined).replace("\u00a0", " ")


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

    An image is robust within a radius if no attack in the table found an adversarial image inside it. The strongest
    threat is the one with the lowest mean robust accuracy, among those under which any model keeps an image right; one
    at which a single attack was run counts only where that holds for all.
    """
    cautions, tried, limits = _cautions(entries), _tried(entries), _limits(entries, signs)
    strongest = _strongest(entries, shares)
    if strongest is None:
        finding = "No bounded attack was run on all of these models, so none can be called robust."
        if len(entries) == 1:
            finding = "No bounded attack was run, so the robust accuracy is not known."
        return Verdict(cautions, finding, "", (), (), tried, limits)
    (norm, eps), ranking = strongest
    threat = threat_name(norm, eps)
    tables = {entry.name: entry.evaluation for entry in entries}
    clean = {name: clean_accuracy(table) for name, table in tables.items()}
    (name, best), *others = ranking
    against: tuple[tuple[str, Paired], ...] = ()
    with suppress(ValueError):  # not the same attacks
        against = tuple((other, paired(tables[name], tables[other], (NORMS[norm], eps))) for other, _ in others)
    if best.value == 0:
        which, keeps = (name, "keeps no image right") if not others else ("No model", "keeps a single image right")
        unattacked = ", ".join(f"{_share(clean[each])}" + (f" ({each})" if others else "") for each, _ in ranking)
        finding = f"{which} {keeps} within {threat}; unattacked: {unattacked}."
        return Verdict(cautions, finding, threat, ranking, against, tried, limits)
    first = "is the most robust: it " if others else ""
    finding = (
        f"{name} {first}keeps {_share(best)} of the images right within {threat}, "
        f"and has {_share(clean[name])} right unattacked."
    )
    if others:
        named, more = (others, []) if len(others) < 5 else (others[:3], others[3:])
        rest = [f"{other} keeps {_share(value)} (unattacked {_share(clean[other])})" for other, value in named]
        if more:
            rest.append(f"{len(more)} more between {_share(more[-1][1])} and {_share(more[0][1])}")
        finding += f" {listed(rest)}.{_unsettled(name, *others[0], best, dict(against).get(others[0][0]))}"
    return Verdict(cautions, finding, threat, ranking, against, tried, limits)


def shared_shares(entries: Sequence[Entry]) -> dict[Threat, dict[str, Measure]]:
    """By norm and radius at which all were attacked, the models' robust accuracies under the attacks that all share."""
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
                entry.name: robust_accuracy(table, NORMS[norm], eps, None if same else shared)
                for entry, table in zip(entries, tables, strict=True)
            }
        except ValueError:  # an attack that not all share has broken images that these skipped
            continue
    return found


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


def threat_name(norm: str, eps: float) -> str:
    return f"{norm} {eps:.4g}"


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _unsettled(name: str, other: str, theirs: Measure, best: Measure, pair: Paired | None) -> str:
    """A sentence where the order of the first two may be chance."""
    if pair is not None:
        if pair.p_value < LEVEL:
            return ""
        return (
            f" Image by image, {name} and {other} differ no more than by chance "
            f"(exact McNemar p = {pair.p_value:.2g}), so their order is not settled."
        )
    if theirs.high < best.low:
        return ""
    return f" The 95 % intervals of {name} and {other} overlap, so their order is not settled."


def _strongest(entries: Sequence[Entry], shares: Shares) -> tuple[Threat, tuple[tuple[str, Measure], ...]] | None:
    """The threat with the lowest mean robust accuracy, and the models' ranking under it."""
    allowed = [threats(entry.evaluation) for entry in entries]
    tried = {threat: min(len(each[threat]) for each in allowed) for threat in shares}
    found = []
    for threat, models in shares.items():
        if tried[threat] == 1 < max(tried.values()):
            continue  # a single attack, such as along the radii of the battery of the signs
        ranking = tuple(sorted(models.items(), key=lambda item: -item[1].value))
        mean = sum(measure.value for measure in models.values()) / len(models)
        found.append((ranking[0][1].value == 0, mean, threat, ranking))
    return min(found, key=lambda each: each[:2])[2:] if found else None


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


def _limits(entries: Sequence[Entry], signs: Mapping[str, Sequence[Sign]]) -> tuple[str, ...]:
    parts = [
        "These are upper bounds: a better attack can only lower them.",
        "Intervals (95 %) are for another sample of images, not for another training.",
    ]
    for entry in entries:
        prefix = f"{entry.name}: " if len(entries) > 1 else ""
        present = [sign for sign in signs[entry.name] if sign.present]
        if present:
            parts.append(f"{prefix}{_counted(len(present), 'sign')} of masked gradients, so distrust the numbers.")
        made = {place.where for table in entry.spaces.values() for place in table.made}
        if len(made) > 1:
            parts.append(f"{prefix}The table was made in parts, by {len(made)} different versions or machines.")
    return tuple(parts)


def _cautions(entries: Sequence[Entry]) -> tuple[str, ...]:
    sentences = [_classifies(entry) for entry in entries]
    sentences += [_outside(entry) for entry in entries]
    sentences += [_missing(entries[0])]
    sentences += [_warnings(entry) for entry in entries]
    return tuple(sentence for sentence in sentences if sentence)


def _classifies(entry: Entry) -> str:
    """A sentence where clean accuracy is not above chance, by a one-sided binomial test at 5 %."""
    table = rows(entry.evaluation)
    count, right = len(table.label), int((~table.wrong).sum())
    level = chance_level(table.label, _classes(entry))
    if above_chance(count, count, level) >= LEVEL:  # so few images, or of one class, that no accuracy could show it
        return ""
    p = above_chance(right, count, level)
    if p < LEVEL:
        return ""
    predicted = np.unique(table.clean.column("prediction", -1.0))
    constant = f"class {int(predicted[0])} is predicted for every image, and " if len(predicted) == 1 else ""
    return (
        f"{entry.name} does not classify: {constant}{100 * right / count:.1f} % of {count:,} images are right "
        f"unattacked, which is not above chance ({100 * level:.1f} %, one-sided binomial test, p = {p:.2g})."
    )


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


def _warnings(entry: Entry) -> str:
    warnings = () if entry.checkup is None else entry.checkup.warnings
    listed = "; ".join(f"{each.name}: {each.found.rstrip('.')}" for each in warnings)
    return f"The check-up of {entry.name} warns: {listed}." if listed else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _share(measure: Measure) -> str:
    return f"{100 * measure.value:.1f} %"

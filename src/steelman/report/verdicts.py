"""What a report says first: what was found, what was tried, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from steelman.measures import Measure, Paired, clean_accuracy, paired, robust_accuracy
from steelman.measures.accuracies import met, threats
from steelman.measures.masking import Sign, signs
from steelman.measures.transfer import Transfer
from steelman.norms import NORMS
from steelman.report.asking import with_command
from steelman.report.cautions import cautions
from steelman.report.entry import Entry, comparable

LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """The strongest threat that all models met, and the models' standing under it, best first; all of it in sentences.

    cautions  what has to be known before any number: a model that does not classify, missing classes, warnings
    finding   what was found
    attack    the threat, a norm and a radius; empty where there is none
    standing  by model, the share of images for which nothing in its table lies within that radius
    against   the best against each other model on the same images, at this threat; empty where these are not the same
    tried     what the models met
    sure      what the numbers do not say, and what speaks against them
    """

    cautions: tuple[str, ...]
    finding: str
    attack: str
    standing: tuple[tuple[str, Measure], ...]
    against: tuple[tuple[str, Paired], ...]
    tried: tuple[str, ...]
    sure: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The whole verdict: the cautions, then what was found."""
        return " ".join([*self.cautions, self.finding])

    def text(self, width: int) -> str:
        """The verdict for a terminal of so many columns; a number and its unit stay on one line."""
        from textwrap import fill

        joined = (line.replace(" %", "\u00a0%") for line in (*self.cautions, self.finding))
        return "\n".join(fill(line, width) for line in joined).replace("\u00a0", " ")


def verdict(entries: Sequence[Entry], transfer: Sequence[Transfer] = ()) -> Verdict:
    """Who stands best under the strongest bounded threat that all entries met.

    A threat is a norm and a radius at which some attack was bounded; an image withstands it when nothing in the table
    lies within, whatever attack found it (`robust_accuracy`). Where the models met different attacks, those count that
    all met. The strongest threat is the one that leaves the fewest images right on average, among those that leave any
    model any; one at which a single attack was run counts only where that holds for all. `transfer`, what images made
    on one model do to others, may show a sign of masked gradients.
    """
    entries = comparable(entries)
    known, tried, sure = cautions(entries), _tried(entries), _sure(entries, transfer)
    found = _strongest(entries)
    if found is None:
        sentence = "No bounded attack was run on all of these models, so none can be called robust."
        if len(entries) == 1:
            sentence = "No bounded attack was run, so nothing can be said of robustness within a radius."
        return Verdict(known, sentence, "", (), (), tried, sure)
    (norm, eps), standing = found
    threat = threat_name(norm, eps)
    against = _against(entries, norm, eps, [each for each, _ in standing])
    clean = {entry.name: clean_accuracy(entry.evaluation) for entry in entries}
    (name, best), *others = standing
    if best.value == 0:
        which, keeps = (
            (name, "keeps no image right") if len(entries) == 1 else ("No model", "keeps a single image right")
        )
        unattacked = ", ".join(f"{_share(clean[each])}" + (f" ({each})" if others else "") for each, _ in standing)
        sentence = f"{which} {keeps} within {threat}; unattacked: {unattacked}."
        return Verdict(known, sentence, threat, standing, against, tried, sure)
    first = "stands best: it " if others else ""
    sentence = (
        f"{name} {first}keeps {_share(best)} of the images right within {threat}, "
        f"and has {_share(clean[name])} right unattacked."
    )
    if others:
        named, more = (others, []) if len(others) < 5 else (others[:3], others[3:])
        rest = [f"{other} keeps {_share(value)} (unattacked {_share(clean[other])})" for other, value in named]
        if more:
            rest.append(f"{len(more)} more between {_share(more[-1][1])} and {_share(more[0][1])}")
        sentence += f" {listed(rest)}."
        sentence += _unsettled(name, *others[0], best, dict(against).get(others[0][0]))
    return Verdict(known, sentence, threat, standing, against, tried, sure)


def shared_threats(entries: Sequence[Entry]) -> dict[tuple[str, float], dict[str, Measure]]:
    """By norm and radius that all entries met, each model's share of images that stand; attacks that all met count."""
    tables = [entry.evaluation for entry in entries]
    allowed, attacks = [threats(table) for table in tables], [met(table) for table in tables]
    shared = [name for name in attacks[0] if all(name in each for each in attacks)]
    same = all(set(each) == set(shared) for each in attacks)
    found = {}
    for norm, eps in allowed[0]:
        if not all(set(each.get((norm, eps), ())) & set(shared) for each in allowed):
            continue
        try:
            found[norm, eps] = {
                entry.name: robust_accuracy(table, NORMS[norm], eps, None if same else shared)
                for entry, table in zip(entries, tables, strict=True)
            }
        except ValueError:  # images that only another attack's rows would tell of
            continue
    return found


def threat_name(norm: str, eps: float) -> str:
    return f"{norm} {eps:.4g}"


def _against(entries: Sequence[Entry], norm: str, eps: float, ranked: Sequence[str]) -> tuple[tuple[str, Paired], ...]:
    tables = {entry.name: entry.evaluation for entry in entries}
    best, *others = ranked
    try:
        return tuple((name, paired(tables[best], tables[name], (NORMS[norm], eps))) for name in others)
    except ValueError:  # of other images
        return ()


def _unsettled(name: str, other: str, theirs: Measure, best: Measure, compared: Paired | None) -> str:
    """A sentence where the order of the first two may be chance."""
    if compared is not None:
        if compared.p_value < LEVEL:
            return ""
        return (
            f" Image by image, {name} and {other} differ no more than by chance "
            f"(exact McNemar p = {compared.p_value:.2g}), so their order is not settled."
        )
    if theirs.high < best.low:
        return ""
    return f" The 95 % intervals of {name} and {other} overlap, so their order is not settled."


def _strongest(entries: Sequence[Entry]) -> tuple[tuple[str, float], tuple[tuple[str, Measure], ...]] | None:
    """The threat that leaves the fewest images right, and the models' standing under it, best first."""
    shared, allowed = shared_threats(entries), [threats(entry.evaluation) for entry in entries]
    tried = {threat: min(len(each[threat]) for each in allowed) for threat in shared}
    found = []
    for threat, shares in shared.items():
        if tried[threat] == 1 < max(tried.values()):
            continue  # one attack in passing, such as along the radii that the signs ask for
        standing = tuple(sorted(shares.items(), key=lambda item: -item[1].value))
        mean = sum(measure.value for measure in shares.values()) / len(shares)
        found.append((standing[0][1].value == 0, mean, threat, standing))
    return min(found, key=lambda each: each[:2])[2:] if found else None


def _tried(entries: Sequence[Entry]) -> tuple[str, ...]:
    images = sorted({entry.evaluation.images for entry in entries})
    tables = [table for entry in entries for table in entry.spaces.values()]
    kinds: dict[str, tuple[bool, bool]] = {}
    for table in tables:
        for name in (name for name in table.attacks if name not in table.without_rows):
            bounded, gradients = kinds.get(name, (False, False))
            used = bool(table.only(name)["gradients"].any())
            kinds[name] = (bounded or table.record(name).bounded, gradients or used)
    spared = {name for table in tables for name in table.without_rows} - set(kinds)
    if not kinds:
        return (f"{_counted(images[-1], 'image')}, unattacked.",)
    bounded = sum(bounded for bounded, _ in kinds.values())
    white = sum(gradients for _, gradients in kinds.values())
    numbers = " and ".join(f"{each:,}" for each in images) + (" image" if images == [1] else " images")
    data = {entry.evaluation.about.get("data", "") for entry in entries}
    whose = f" of {data.pop()}" if len(data) == 1 and all(data) else ""
    drawn = entries[0].evaluation.about.get("sample")
    whose += f", a sample {drawn['rule']} of {drawn['of']:,} (seed {drawn['seed']})" if drawn else ""
    parts = [f"{numbers}{whose}, {_counted(len(kinds), 'attack')}."]
    within = sorted({threat for entry in entries for threat in threats(entry.evaluation)})
    if bounded:
        parts.append(f"{bounded} within a radius: {listed([threat_name(*each) for each in within])}.")
    if bounded < len(kinds):
        parts.append(f"{len(kinds) - bounded} without, for the smallest perturbation.")
    box = {
        len(kinds): "All used the model's gradients (white box).",
        0: "All saw the model's answers alone (black box).",
    }
    mixed = f"{white} used the model's gradients (white box), {len(kinds) - white} its answers alone (black box)."
    parts.append(box.get(white, mixed))
    if len({frozenset(met(entry.evaluation)) for entry in entries}) > 1:
        parts.append("Not all models met the same attacks: the verdict counts those that all met, measures all.")
    if spared:
        parts.append(f"{_counted(len(spared), 'more attack')} had no image left to meet.")
    return tuple(parts)


def _sure(entries: Sequence[Entry], transfer: Sequence[Transfer]) -> tuple[str, ...]:
    parts = [
        "These are upper bounds: a better attack can only lower them.",
        "Intervals (95 %) speak of drawing other images, not of training again.",
    ]
    for entry in entries:
        whose = f"{entry.name}: " if len(entries) > 1 else ""
        there = [sign for sign in signs_of(entry, transfer) if sign.found]
        if there:
            parts.append(f"{whose}{_counted(len(there), 'sign')} of masked gradients, so distrust the numbers.")
        made = {place.where for table in entry.spaces.values() for place in table.made}
        if len(made) > 1:
            parts.append(f"{whose}The table was made in parts, by {len(made)} different versions or machines.")
    return tuple(parts)


def signs_of(entry: Entry, transfer: Sequence[Transfer]) -> tuple[Sign, ...]:
    """The signs of masked gradients, with what images made on other models do to this one, where that is known."""
    told = next((each for each in transfer if entry.name in each.targets), None)
    found = signs(entry.evaluation, told, name=None if told is None else entry.name)
    return tuple(with_command(sign, entry) for sign in found)


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _share(measure: Measure) -> str:
    return f"{100 * measure.value:.1f} %"

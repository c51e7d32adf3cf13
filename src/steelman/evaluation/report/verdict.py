"""The first sentence of a report."""

from collections.abc import Sequence
from dataclasses import dataclass

from steelman.evaluation.entry import Entry, comparable
from steelman.evaluation.measures import Measure, clean_accuracy, threats, worst_case
from steelman.evaluation.table import Evaluation


@dataclass(frozen=True)
class Verdict:
    """The strongest attack that all models met, the models' standing under it, best first, and a sentence about it."""

    sentence: str
    attack: str
    standing: tuple[tuple[str, Measure], ...]


def verdict(entries: Sequence[Entry]) -> Verdict:
    """Who stands best under the strongest bounded attack that all entries met.

    An attack here is a threat, a norm and a radius, with the per-image worst case over the attacks of that threat. The
    strongest is the one that leaves the fewest images right on average, among those that leave any model any.
    """
    entries = comparable(entries)
    found = _strongest(entries)
    if found is None:
        return Verdict("No bounded attack was run on all of these models, so none can be called robust.", "", ())
    attack, standing = found
    clean = {entry.name: clean_accuracy(_pixels(entry)) for entry in entries}
    (name, best), *others = standing
    if best.value == 0:
        whom = name if len(entries) == 1 else "No model"
        keeps = "keeps no image right" if len(entries) == 1 else "keeps a single image right"
        return Verdict(f"{whom} {keeps} under {attack}.", attack, standing)
    first = "" if not others else "stands best: it "
    sentence = (
        f"{name} {first}keeps {_share(best)} of the images right under the strongest attack, {attack}, "
        f"with {_share(clean[name])} right unattacked."
    )
    if others:
        rest = [f"{other} keeps {_share(value)} (unattacked {_share(clean[other])})" for other, value in others]
        sentence += f" {_listed(rest)}."
        if others[0][1].high >= best.low:
            sentence += f" The 95 % intervals of {name} and {others[0][0]} overlap, so their order is not settled."
    return Verdict(sentence, attack, standing)


def _strongest(entries: Sequence[Entry]) -> tuple[str, tuple[tuple[str, Measure], ...]] | None:
    """The threat that all entries met and that leaves the fewest images right, and the models' standing, best first."""
    met = [threats(_pixels(entry)) for entry in entries]
    found = []
    for threat in met[0]:
        names = sorted(set.intersection(*(set(each.get(threat, ())) for each in met)))
        if not names:
            continue
        shares = {entry.name: worst_case(_pixels(entry), names) for entry in entries}
        standing = tuple(sorted(shares.items(), key=lambda item: -item[1].value))
        mean = sum(measure.value for measure in shares.values()) / len(shares)
        label = names[0] if len(names) == 1 else f"the worst of {_listed(names)}"
        found.append((standing[0][1].value == 0, mean, label, standing))
    return min(found, key=lambda each: each[:2])[2:] if found else None


def _pixels(entry: Entry) -> Evaluation:
    spaces = entry.evaluation.spaces
    return entry.evaluation.only(space="pixels" if "pixels" in spaces else spaces[0])


def _share(measure: Measure) -> str:
    return f"{100 * measure.value:.1f} %"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

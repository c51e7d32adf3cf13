"""What a reader has to know before any number: a model that does not classify, classes without images, warnings."""

from collections.abc import Sequence

import numpy as np

from steelman.measures.chance import LEVEL, above_chance, chance_level
from steelman.measures.rows import rows
from steelman.report.entry import Entry

NAMED = 10
"""At most so many missing classes are named."""


def cautions(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Sentences that stand before the verdict; none where nothing speaks against the numbers."""
    found = [_classifies(entry) for entry in entries]
    found += [_outside(entry) for entry in entries]
    found += [_missing(entries[0])]
    found += [_warnings(entry) for entry in entries]
    return tuple(sentence for sentence in found if sentence)


def _classifies(entry: Entry) -> str:
    """A sentence where clean accuracy is not above chance, by a one-sided binomial test at 5 %."""
    seen = rows(entry.evaluation)
    count, right = len(seen.label), int((~seen.wrong).sum())
    level = chance_level(seen.label, _classes(entry))
    if above_chance(count, count, level) >= LEVEL:  # so few images, or of one class, that no accuracy could show it
        return ""
    p = above_chance(right, count, level)
    if p < LEVEL:
        return ""
    predicted = np.unique(seen.clean.column("prediction", -1.0))
    constant = f"class {int(predicted[0])} is predicted for every image, and " if len(predicted) == 1 else ""
    return (
        f"{entry.name} does not classify: {constant}{100 * right / count:.1f} % of {count:,} images are right "
        f"unattacked, which is not above chance ({100 * level:.1f} %, one-sided binomial test, p = {p:.2g})."
    )


def _outside(entry: Entry) -> str:
    """A sentence where predictions are classes that the data set does not have; a check-up says so itself."""
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
        "The numbers say nothing of these."
    )


def _warnings(entry: Entry) -> str:
    found = () if entry.checkup is None else entry.checkup.warnings
    told = "; ".join(f"{each.name}: {each.found.rstrip('.')}" for each in found)
    return f"The check-up of {entry.name} warns: {told}." if told else ""

"""Every measure that a table allows, and what its name means."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from steelman.measures import accuracies, distances, probes, targets
from steelman.measures.measure import Measure, Unmeasured
from steelman.measures.rows import Attacked, rows
from steelman.norms import NORMS
from steelman.randomness import DRAWS
from steelman.table.records import CLEAN
from steelman.table.table import Evaluation

FEWEST_RADII = 4
"""From how many radii on an average over them is listed; MMA's tables have 8 on CIFAR-10 and 4 on MNIST."""

BY_VOTE = "accuracy of the most frequent answer"
EXPLAINED = {
    "accuracy": "Accuracy under an attack: right before it and after it.",
    BY_VOTE: (
        f"The model is random: an image counts by its probability of being right, over {2 * DRAWS} draws, clean and "
        "attacked; of the most frequent answer, by a vote."
    ),
    "robust accuracy": (
        "Robust accuracy: no attack in the table found an adversarial image within the radius, image by image."
    ),
    "Min": "Min: the lowest accuracy under a single attack, as papers print it; never below the robust accuracy.",
    "worst case": "Worst case: right under every one of these attacks, image by image; never above Min.",
    "AvgAcc": "AvgAcc: mean of the clean accuracy and of the robust accuracy at each radius.",
    "AvgRobAcc": "AvgRobAcc: mean of the robust accuracy at each radius.",
}
"""What kinds of accuracy are, a line each to print beside a table."""


def measures(*tables: Evaluation) -> dict[str, Measure]:
    """Every measure that a model's tables allow, under its name; in a space other than pixels, with the space."""
    return measures_and_gaps(*tables)[0]


def unmeasured(*tables: Evaluation) -> dict[str, str]:
    """What `measures` leaves out, and why: an attack skipped some images, or broke none, or overflowed."""
    return measures_and_gaps(*tables)[1]


def measures_and_gaps(*tables: Evaluation) -> tuple[dict[str, Measure], dict[str, str]]:
    """`measures` and `unmeasured`."""
    found: dict[str, Measure] = {}
    reasons: dict[str, str] = {}
    for table in tables:
        suffix = "" if table.space == "pixels" else f" ({table.space})"
        for name, measure in _candidates(table):
            try:
                found[name + suffix] = measure()
            except Unmeasured as why:
                reasons[name + suffix] = str(why)
    return found, reasons


def explained(labels: Iterable[str]) -> list[str]:
    """A line for each kind of accuracy among labels such as "Min, Linf 0.1"."""
    kinds = {label.partition(", ")[0].lower() for label in labels}
    return [line for kind, line in EXPLAINED.items() if kind.lower() in kinds]


def along_radii(radii: Sequence[float]) -> bool:
    """Whether radii are those of an average over radii, as MMA's: r, 2 r, 3 r, ..., four of them and more."""
    even = [radii[0] * times for times in range(1, len(radii) + 1)] if radii else []
    return len(radii) >= FEWEST_RADII and np.allclose(radii, even, rtol=1e-3)


def _candidates(table: Evaluation) -> Iterator[tuple[str, Callable[[], Measure]]]:
    """Names and what computes them, in the order in which they are shown."""
    attacks = rows(table).attacks
    alone = {name: each for name, each in attacks.items() if not targets.is_towards(each.record)}
    yield "clean accuracy", partial(accuracies.clean_accuracy, table)
    if any(each.rejected.any() for each in (rows(table).clean, *attacks.values())):
        yield "clean rejection rate", partial(accuracies.rejection_rate, table)
        for name in alone:
            yield f"rejection rate, {name}", partial(accuracies.rejection_rate, table, name)
    for name, attack in alone.items():
        if attack.bounded:
            yield f"accuracy, {name}", partial(accuracies.accuracy, table, name)
    for (norm, eps), names in accuracies.threats(table).items():
        yield f"robust accuracy, {norm} {eps:.4g}", partial(accuracies.robust_accuracy, table, NORMS[norm], eps)
        if len(names) > 1 and not any(attacks[name].skipped.any() for name in names):
            yield f"Min, {norm} {eps:.4g}", partial(accuracies.minimum, table, names)
    for label, norm in NORMS.items():
        radii = accuracies.radii_of(table, norm)
        if along_radii(radii):
            where = f"{label}, {len(radii)} radii to {radii[-1]:.4g}"
            yield f"AvgAcc, {where}", partial(accuracies.average_accuracy, table, norm)
            yield f"AvgRobAcc, {where}", partial(accuracies.average_accuracy, table, norm, clean=False)
    for name in (CLEAN, *(name for name, attack in alone.items() if attack.bounded)) if rows(table).random else ():
        label = f"{BY_VOTE}, {name}"
        yield label, partial(accuracies.accuracy_of_most, table, name)
    for name, attack in alone.items():
        for label, measure in _of_minimal(attack) if not attack.bounded else ():
            yield f"{label}, {name}", partial(measure, table, name)
    for name, of_table in targets.of_targets(rows(table)):
        yield name, partial(of_table, table)
    for probe in table.probes:
        for name in probes.measured_by(table, probe):
            label = probe.removesuffix("()") + ("" if name == CLEAN else f", {name}")
            if probe.startswith("CLEVER("):
                yield label, partial(probes.clever, table, probe)
            elif probe.startswith("TrainingSetDistance("):
                for form, named in _forms(attacks.get(name), label):
                    yield named, partial(probes.training_set_distance, table, name, form, probe=probe)
            else:
                yield label, partial(probes.probed, table, probe, name)


def _of_minimal(attack: Attacked) -> Iterator[tuple[str, Callable[[Evaluation, str], Measure]]]:
    """The measures of a minimal attack, by label."""
    norm = attack.norm or "L2"
    if "SigmaNoise" in attack.record.kinds():  # its size is given, not found
        yield "accuracy", accuracies.accuracy
        return
    if _of_table_2(attack):  # it may find nothing, which others hardly do
        yield "accuracy", accuracies.accuracy
    if attack.leaves_label or norm != "L2":  # else it is rho_2
        for form, named in _forms(attack, "empirical robustness"):
            yield named, partial(distances.empirical_robustness, form=form)
    if attack.leaves_label:
        yield "success", targets.success
    if attack.leaves_label or norm not in ("L2", "Linf"):
        yield f"mean {norm}", distances.mean_norm
        yield f"median {norm}", distances.median_norm
    elif norm == "Linf":
        yield "rho_inf", distances.rho_inf
        yield "mean Linf", distances.mean_norm
    else:
        yield "rho_2", distances.rho_2
        yield "l_2", distances.l_2
    if distances.is_carlini_wagner(attack):
        yield "rho_cw", distances.rho_cw
        yield "median rho_cw", partial(distances.rho_cw, statistic="median")


def _forms(attack: Attacked | None, label: str) -> Iterator[tuple[distances.Form, str]]:
    """The forms of a measure of Efficient Defenses' table 2: its code's only for the attack that is in that table."""
    yield "paper", label
    if attack is not None and _of_table_2(attack):
        name, comma, rest = label.partition(", ")
        yield "code", f"{name} (code){comma}{rest}"


def _of_table_2(attack: Attacked) -> bool:
    return not attack.bounded and "MinimalFGSM" in attack.record.kinds()

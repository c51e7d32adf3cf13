"""Every measure that a table allows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from steelman.measures.accuracies import (
    accuracy,
    average_accuracy,
    clean_accuracy,
    minimum,
    radii_of,
    robust_accuracy,
    threats,
)
from steelman.measures.distances import (
    empirical_robustness,
    is_carlini_wagner,
    l_2,
    mean_norm,
    median_norm,
    rho_2,
    rho_cw,
    rho_inf,
)
from steelman.measures.measure import Measure, Unmeasured, plain
from steelman.measures.probes import clever, measured_by, probed, training_set_distance
from steelman.measures.rows import Attacked, rows
from steelman.norms import NORMS
from steelman.table.records import CLEAN
from steelman.table.table import Evaluation

FEWEST_RADII = 4
"""From how many radii on an average over them is listed; MMA's tables have 8 on CIFAR-10 and 4 on MNIST."""


def measures(*tables: Evaluation) -> dict[str, Measure]:
    """Every measure that a model's tables allow, under its name; in a space other than pixels, with the space."""
    return _measured(tables)[0]


def unmeasured(*tables: Evaluation) -> dict[str, str]:
    """What `measures` leaves out, and why: an attack skipped some images, or broke none, or overflowed."""
    return _measured(tables)[1]


def summary(*tables: Evaluation) -> dict[str, dict[str, Any]]:
    """`measures` as plain values for JSON, where None stands for an infinite number."""
    return plain(measures(*tables))


def _measured(tables: Sequence[Evaluation]) -> tuple[dict[str, Measure], dict[str, str]]:
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


def _candidates(table: Evaluation) -> Iterator[tuple[str, Callable[[], Measure]]]:
    """Names and what computes them, in the order in which they are shown."""
    attacks = rows(table).attacks
    yield "clean accuracy", lambda: clean_accuracy(table)
    for name, attack in attacks.items():
        if attack.bounded:
            yield f"accuracy, {name}", lambda name=name: accuracy(table, name)
    for (norm, eps), names in threats(table).items():
        yield f"robust accuracy, {norm} {eps:.4g}", lambda norm=norm, eps=eps: robust_accuracy(table, NORMS[norm], eps)
        whole = [name for name in names if not attacks[name].spared.any()]
        if len(whole) == len(names) > 1:
            yield f"Min, {norm} {eps:.4g}", lambda names=names: minimum(table, names)
    for label, norm in NORMS.items():
        radii = radii_of(table, norm)
        if along_radii(radii):
            where = f"{label}, {len(radii)} radii to {radii[-1]:.4g}"
            yield f"AvgAcc, {where}", lambda norm=norm: average_accuracy(table, norm)
            yield f"AvgRobAcc, {where}", lambda norm=norm: average_accuracy(table, norm, clean=False)
    for attack in attacks.values():
        if not attack.bounded:
            yield from _of_minimal(table, attack)
    for probe in table.probes:
        for name in measured_by(table, probe):
            label = probe.removesuffix("()") + ("" if name == CLEAN else f", {name}")
            if probe.startswith("CLEVER("):
                yield label, lambda probe=probe: clever(table, probe)
            elif probe.startswith("TrainingSetDistance("):
                yield label, lambda probe=probe, name=name: training_set_distance(table, name, probe=probe)
            else:
                yield label, lambda probe=probe, name=name: probed(table, probe, name)


def along_radii(radii: Sequence[float]) -> bool:
    """Whether radii are those of an average over radii, as MMA's: r, 2 r, 3 r, ..., four of them and more."""
    even = [radii[0] * times for times in range(1, len(radii) + 1)] if radii else []
    return len(radii) >= FEWEST_RADII and np.allclose(radii, even, rtol=1e-3)


def _of_minimal(table: Evaluation, attack: Attacked) -> Iterator[tuple[str, Callable[[], Measure]]]:
    name, norm = attack.name, attack.norm or "L2"
    if attack.leaves_label or norm != "L2":  # else it is rho_2
        yield f"empirical robustness, {name}", lambda: empirical_robustness(table, name)
    if attack.leaves_label:
        yield f"mean {norm}, {name}", lambda: mean_norm(table, name)
        yield f"median {norm}, {name}", lambda: median_norm(table, name)
        if is_carlini_wagner(attack):
            yield f"rho_cw, {name}", lambda: rho_cw(table, name)
            yield f"median rho_cw, {name}", lambda: rho_cw(table, name, "median")
    elif norm == "Linf":
        yield f"rho_inf, {name}", lambda: rho_inf(table, name)
    elif norm == "L2":
        yield f"rho_2, {name}", lambda: rho_2(table, name)
        yield f"l_2, {name}", lambda: l_2(table, name)
    else:
        yield f"mean {norm}, {name}", lambda: mean_norm(table, name)
        yield f"median {norm}, {name}", lambda: median_norm(table, name)

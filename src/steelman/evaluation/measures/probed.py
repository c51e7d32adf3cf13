"""Means of what probes measured beside the attacks."""

import numpy as np

from steelman.evaluation.measures.distances import GUARD, Form, check_form, only
from steelman.evaluation.measures.measure import Measure, Unmeasured, bootstrap
from steelman.evaluation.measures.rows import Attacked, rows
from steelman.evaluation.table import CLEAN, Evaluation


def probed(evaluation: Evaluation, probe: str, attack: str = CLEAN) -> Measure:
    """The mean of a probe's column over the images that it measured.

    probe   the column, which is the call that makes the probe, such as "LossSensitivity()"; "()" may be left out
    attack  whose images: an attack's name, or "clean" (default) for probes of unattacked images

    Raises:
        ValueError: there is no such column or attack.
        Unmeasured: the probe measured none of these images, or not finite numbers; the attack was spared some.
    """
    return bootstrap(_values(evaluation, _column(evaluation, probe), _of(evaluation, attack)), kind="ratio")


def training_set_distance(
    evaluation: Evaluation, attack: str, form: Form = "paper", *, probe: str | None = None
) -> Measure:
    """How far attacked images are from the training set, from the column of `TrainingSetDistance`.

    form   "paper" (default): the mean over all attacked images of d = min_j |x' - x_j|_2. "code": the mean of
           d^2 / |x|_2 over the images whose prediction the attack changed; `failures` counts the others
    probe  the column; by default the table's only one of `TrainingSetDistance`

    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, table 2.

    Raises:
        ValueError: there is no such column or attack.
        Unmeasured: as for `probed`; the attack changed no prediction ("code").
    """
    check_form(form)
    if probe is None:
        own = [name for name in evaluation.probes if name.startswith("TrainingSetDistance(")]
        probe = only(own, "this is of the probe TrainingSetDistance()")
    column, attacked = _column(evaluation, probe), _of(evaluation, attack)
    distances = _values(evaluation, column, attacked)
    if form == "paper":
        return bootstrap(distances)
    measured = ~np.isnan(attacked.column(column, np.nan))
    changed, x_l2 = attacked.changed[measured], rows(evaluation).x_l2[measured]
    if not changed.any():
        raise Unmeasured(f"{attack} changed no prediction, so there is nothing to average over")
    return bootstrap((distances**2 / (x_l2 + GUARD))[changed]).over(~changed)


def measured_by(evaluation: Evaluation, probe: str) -> list[str]:
    """The attacks, "clean" among them, on whose images a probe's column holds numbers."""
    found = rows(evaluation)
    each = (found.clean, *found.attacks.values())
    return [attack.name for attack in each if not np.isnan(attack.column(probe, np.nan)).all()]


def _column(evaluation: Evaluation, probe: str) -> str:
    names = {name.removesuffix("()"): name for name in evaluation.probes}
    if probe.removesuffix("()") not in names:
        raise ValueError(f"no column of probe {probe!r}; the table has {', '.join(evaluation.probes) or 'none'}")
    return names[probe.removesuffix("()")]


def _of(evaluation: Evaluation, attack: str) -> Attacked:
    return rows(evaluation).clean if attack == CLEAN else rows(evaluation)[attack].whole()


def _values(evaluation: Evaluation, column: str, attack: Attacked) -> np.ndarray:
    values = attack.column(column, np.nan)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        others = ", ".join(measured_by(evaluation, column)) or "nothing"
        raise Unmeasured(f"{column} was not measured on the images of {attack.name}, but on those of {others}")
    if not np.isfinite(values).all():
        raise Unmeasured(f"{column} is infinite for {int((~np.isfinite(values)).sum())} images of {attack.name}")
    return values

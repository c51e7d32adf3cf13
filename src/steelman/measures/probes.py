"""Means of the columns that probes added to the table."""

import numpy as np

from steelman.measures.distances import GUARD, Form, check_form, only
from steelman.measures.measure import Measure, Unmeasured, mean
from steelman.measures.rows import rows
from steelman.table.records import CLEAN
from steelman.table.table import Evaluation


def probed(evaluation: Evaluation, probe: str, attack: str = CLEAN) -> Measure:
    """The mean of a probe's column over the images that it measured.

    probe   the column, named by the call that makes the probe, such as "LossSensitivity()"; "()" may be left out
    attack  an attack's name, or "clean" (default) for the unattacked images

    Raises:
        ValueError: there is no such column or attack.
        Unmeasured: the probe measured none of these images, or not finite numbers; the attack skipped some.
    """
    column = _column(evaluation, probe)
    values = rows(evaluation)[attack].whole().column(column, np.nan)
    return mean(_measured(evaluation, column, attack, values), kind="ratio")


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
        probe = _own(evaluation, "TrainingSetDistance")
    column, attacked = _column(evaluation, probe), rows(evaluation)[attack].whole()
    values = attacked.column(column, np.nan)
    distances = _measured(evaluation, column, attack, values)
    if form == "paper":
        return mean(distances)
    changed, x_l2 = (each[~np.isnan(values)] for each in (attacked.changed, rows(evaluation).x_l2))
    if not changed.any():
        raise Unmeasured(f"{attack} changed no prediction, so there is nothing to average over")
    return mean((distances**2 / (x_l2 + GUARD))[changed]).over(~changed)


def clever(evaluation: Evaluation, probe: str | None = None) -> Measure:
    """The mean CLEVER score over the images that are right, from the column of `CLEVER`.

    A wrong image's score is its distance to another prediction, not to an error, so it does not count.

    probe  the column; by default the table's only one of `CLEVER`

    Reference: Tsui-Wei Weng, Huan Zhang, Pin-Yu Chen, Jinfeng Yi, Dong Su, Yupeng Gao, Cho-Jui Hsieh and Luca Daniel,
    "Evaluating the robustness of neural networks: an extreme value theory approach", ICLR 2018.

    Raises:
        ValueError: there is no such column.
        Unmeasured: as for `probed`; no image is right.
    """
    column = _own(evaluation, "CLEVER") if probe is None else _column(evaluation, probe)
    scores = np.where(rows(evaluation).wrong, np.nan, rows(evaluation).clean.column(column, np.nan))
    return mean(_measured(evaluation, column, CLEAN, scores))


def measured_by(evaluation: Evaluation, probe: str) -> list[str]:
    """The attacks, "clean" among them, on whose images a probe's column holds numbers."""
    table = rows(evaluation)
    each = (table.clean, *table.attacks.values())
    return [attack.name for attack in each if not np.isnan(attack.column(probe, np.nan)).all()]


def _column(evaluation: Evaluation, probe: str) -> str:
    names = {name.removesuffix("()"): name for name in evaluation.probes}
    if probe.removesuffix("()") not in names:
        raise ValueError(f"no column of probe {probe!r}; the table has {', '.join(evaluation.probes) or 'none'}")
    return names[probe.removesuffix("()")]


def _own(evaluation: Evaluation, kind: str) -> str:
    return only([name for name in evaluation.probes if name.startswith(f"{kind}(")], f"this is of the probe {kind}()")


def _measured(evaluation: Evaluation, column: str, attack: str, values: np.ndarray) -> np.ndarray:
    values = values[~np.isnan(values)]
    if len(values) == 0:
        others = ", ".join(measured_by(evaluation, column)) or "nothing"
        raise Unmeasured(f"{column} has no number of these images of {attack}; it was measured on those of {others}")
    if not np.isfinite(values).all():
        raise Unmeasured(f"{column} is infinite for {int((~np.isfinite(values)).sum())} images of {attack}")
    return values

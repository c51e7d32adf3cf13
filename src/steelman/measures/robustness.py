"""Robustness against clean accuracy, over models that differ in a hyper-parameter."""

from collections.abc import Mapping
from math import isfinite

from steelman.measures.line import Axis, Line, Point
from steelman.measures.measure import Measure

CLEAN_ACCURACY = "clean accuracy"
DEFAULTS = (("robust accuracy, ", 0), ("accuracy, ", -1), ("rho_cw", 0), ("mean ", 0), ("rho_2", 0))
"""The beginnings of the measures that a robustness curve shows by default, and which of several to take."""


def robustness_curve(models: Mapping[str, Mapping[str, Measure]], measure: str) -> Line:
    """One point for each trained hyper-parameter: clean accuracy, and how robust the model is.

    models   by the name of the point, a model's measures, `measures(evaluation)`
    measure  one of them, by name: a robust accuracy (the worst case), an accuracy under one attack, rho_cw

    Models are compared at equal clean accuracy only: `line.at(accuracy)` is on the straight line between the two
    nearest points, and never outside of them; `at_equal` compares two curves.

    Reference: Hyeungill Lee, Sungyeob Han and Jungwoo Lee, "Adversarial training with perturbation generator networks",
    OpenReview 2019, figures 5 and 7; the measure there is rho_cw.

    Raises:
        ValueError: no models; one has no such measure (names those that all have), or an infinite one.
    """
    if not models:
        raise ValueError("a robustness curve needs at least one model")
    points, share = [], False
    for name, found in models.items():
        if measure not in found:
            raise ValueError(f"{name} has no measure {measure!r}; all of the models have {', '.join(_shared(models))}")
        clean, robust = found[CLEAN_ACCURACY], found[measure]
        share = robust.kind == "share"
        points.append(Point(clean.value, robust.value, robust.low, robust.high, name))
    return Line(tuple(points), Axis(CLEAN_ACCURACY, share=True), Axis(measure, share=share))


def default_measure(models: Mapping[str, Mapping[str, Measure]]) -> str | None:
    """The measure of robustness that all of the models have and that is finite.

    The robust accuracy within the first radius; else the accuracy under the last bounded attack; else rho_cw, the mean
    size of the first minimal attack's perturbations, or rho_2.
    """
    finite = [name for name in _shared(models) if all(isfinite(found[name].value) for found in models.values())]
    for label, place in DEFAULTS:
        if names := [name for name in finite if name.startswith(label)]:
            return names[place]
    return None


def named_measure(models: Mapping[str, Mapping[str, Measure]], wanted: str) -> str:
    """The measure that all of the models have, by its name or by a beginning that no other one has.

    Raises:
        ValueError: there is none, or there are several; names those that all of the models have.
    """
    shared = _shared(models)
    found = [wanted] if wanted in shared else [name for name in shared if name.startswith(wanted)]
    if len(found) != 1:
        many = "several measures begin" if found else "no measure begins"
        raise ValueError(f"{many} with {wanted!r}; all of the models have {', '.join(shared) or 'none'}")
    return found[0]


def _shared(models: Mapping[str, Mapping[str, Measure]]) -> list[str]:
    """The measures that all of the models have, without clean accuracy, which a robustness curve has anyway."""
    names = dict.fromkeys(name for found in models.values() for name in found if name != CLEAN_ACCURACY)
    return [name for name in names if all(name in found for found in models.values())]

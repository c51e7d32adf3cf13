"""Robustness against clean accuracy, over models that differ in a hyper-parameter."""

from collections.abc import Mapping

from steelman.evaluation.line import Axis, Line, Point
from steelman.evaluation.measures import Measure

CLEAN_ACCURACY = "clean accuracy"
DEFAULTS = (("worst case, ", 0), ("accuracy, ", -1), ("rho_cw", 0), ("mean ", 0), ("rho_2", 0))
"""How the measures begin that a robustness curve shows by default, and which of those that do."""


def robustness_curve(models: Mapping[str, Mapping[str, Measure]], measure: str) -> Line:
    """One point for each trained hyper-parameter: clean accuracy, and how robust the model is.

    models   per model its measures, `measures(evaluation)`, under what its point is called
    measure  one of them, by name: a worst case, an accuracy under attack, rho_cw

    Models are compared at equal clean accuracy only: `line.at(accuracy)` is on the straight line between the two
    nearest points, and never outside of them; `at_equal` compares two curves.

    Reference: Hyeungill Lee, Sungyeob Han and Jungwoo Lee, "Adversarial training with perturbation generator networks",
    OpenReview 2019, figures 5 and 7; the measure there is rho_cw.

    Raises:
        ValueError: no models; one has no such measure (names those that all have), or an infinite one.
    """
    if not models:
        raise ValueError("a robustness curve needs at least one model")
    points = []
    for name, found in models.items():
        if measure not in found:
            raise ValueError(f"{name} has no measure {measure!r}; all of the models have {', '.join(_shared(models))}")
        clean, robust = found[CLEAN_ACCURACY], found[measure]
        points.append(Point(clean.value, robust.value, robust.low, robust.high, name))
    return Line(tuple(points), Axis(CLEAN_ACCURACY, share=True), Axis(measure, share=found[measure].kind == "share"))


def robustness_measure(models: Mapping[str, Mapping[str, Measure]], wanted: str = "") -> str:
    """The name of a measure that all of the models have, by its name or by the beginning of it.

    By default the first of their worst cases; else the accuracy under the last bounded attack; else rho_cw, or the mean
    size of the first minimal attack's perturbations.

    Raises:
        ValueError: all models have none of that name, or several that begin so; names those that they have.
    """
    shared = _shared(models)
    if wanted in shared:
        return wanted
    found = [name for name in shared if name.startswith(wanted)] if wanted else []
    if not wanted:
        by_default = (([name for name in shared if name.startswith(label)], place) for label, place in DEFAULTS)
        found = next(([names[place]] for names, place in by_default if names), [])
    if len(found) != 1:
        raise ValueError(
            f"{'several measures begin' if found else 'no measure begins'} with {wanted!r}; all of the models have "
            f"{', '.join(shared)}"
        )
    return found[0]


def _shared(models: Mapping[str, Mapping[str, Measure]]) -> list[str]:
    """The measures that all of the models have, without clean accuracy, which a robustness curve has anyway."""
    names = dict.fromkeys(name for found in models.values() for name in found if name != CLEAN_ACCURACY)
    return [name for name in names if all(name in found for found in models.values())]

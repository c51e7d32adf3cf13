"""Numbers with 95 % intervals, each a pure function of the table.

A number that the table cannot give raises `Unmeasured`, a ValueError with the reason.
"""

from steelman.measures.accuracies import (
    accuracy,
    accuracy_of_any_draw,
    accuracy_of_most,
    average_accuracy,
    clean_accuracy,
    minimum,
    rejection_rate,
    robust_accuracy,
    success_rate,
    worst_case,
)
from steelman.measures.all_measures import measures, unmeasured
from steelman.measures.curves import Curve, against, by_time, convergence, curve, success_rates
from steelman.measures.distances import (
    empirical_robustness,
    l_2,
    mean_margin,
    mean_norm,
    median_norm,
    rho_2,
    rho_cw,
    rho_inf,
    smallest_norms,
)
from steelman.measures.line import Axis, Comparison, Line, Point, at_equal
from steelman.measures.masking import Sign, signs
from steelman.measures.measure import Measure, Unmeasured
from steelman.measures.notebooks import evaluation_html  # noqa: F401 (it is what a notebook shows of a table)
from steelman.measures.pairwise import Paired, paired, paired_norms
from steelman.measures.probes import clever, probed, training_set_distance
from steelman.measures.robustness import default_measure, named_measure, robustness_curve
from steelman.measures.transfer import Transfer
from steelman.measures.waterfalls import Waterfall, waterfall

__all__ = [
    "Axis",
    "Comparison",
    "Curve",
    "Line",
    "Measure",
    "Paired",
    "Point",
    "Sign",
    "Transfer",
    "Unmeasured",
    "Waterfall",
    "accuracy",
    "accuracy_of_any_draw",
    "accuracy_of_most",
    "against",
    "at_equal",
    "average_accuracy",
    "by_time",
    "clean_accuracy",
    "clever",
    "convergence",
    "curve",
    "default_measure",
    "empirical_robustness",
    "l_2",
    "mean_margin",
    "mean_norm",
    "measures",
    "median_norm",
    "minimum",
    "named_measure",
    "paired",
    "paired_norms",
    "probed",
    "rejection_rate",
    "rho_2",
    "rho_cw",
    "rho_inf",
    "robust_accuracy",
    "robustness_curve",
    "signs",
    "smallest_norms",
    "success_rate",
    "success_rates",
    "training_set_distance",
    "unmeasured",
    "waterfall",
    "worst_case",
]

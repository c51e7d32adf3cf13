"""Numbers with 95 % intervals, every one a pure function of the table.

A number that the table cannot give raises `Unmeasured`, a ValueError that says why.
"""

from steelman.evaluation.measures.accuracies import (
    accuracy,
    average_accuracy,
    clean_accuracy,
    minimum,
    robust_accuracy,
    success_rate,
    worst_case,
)
from steelman.evaluation.measures.distances import (
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
from steelman.evaluation.measures.measure import Measure, Unmeasured
from steelman.evaluation.measures.paired import Paired, paired, paired_norms
from steelman.evaluation.measures.probed import clever, probed, training_set_distance
from steelman.evaluation.measures.summary import measures, summary, unmeasured

__all__ = [
    "Measure",
    "Paired",
    "Unmeasured",
    "accuracy",
    "average_accuracy",
    "clean_accuracy",
    "clever",
    "empirical_robustness",
    "l_2",
    "mean_margin",
    "mean_norm",
    "measures",
    "median_norm",
    "minimum",
    "paired",
    "paired_norms",
    "probed",
    "rho_2",
    "rho_cw",
    "rho_inf",
    "robust_accuracy",
    "smallest_norms",
    "success_rate",
    "summary",
    "training_set_distance",
    "unmeasured",
    "worst_case",
]

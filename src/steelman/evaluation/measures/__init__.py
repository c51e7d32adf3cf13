"""Numbers with 95 % intervals, every one a pure function of the table.

A number that the table cannot give raises `Unmeasured`, a ValueError that says why.
"""

from steelman.evaluation.measures.accuracies import (
    accuracy,
    average_accuracy,
    clean_accuracy,
    met,
    minimum,
    robust_accuracy,
    standing,
    success_rate,
    threats,
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
from steelman.evaluation.measures.measure import Measure, Unmeasured, bootstrap, plain, share
from steelman.evaluation.measures.paired import Paired, paired, paired_norms, same_images
from steelman.evaluation.measures.probed import clever, probed, training_set_distance
from steelman.evaluation.measures.summary import measures, summary, unmeasured

__all__ = [
    "Measure",
    "Paired",
    "Unmeasured",
    "accuracy",
    "average_accuracy",
    "bootstrap",
    "clean_accuracy",
    "clever",
    "empirical_robustness",
    "l_2",
    "mean_margin",
    "mean_norm",
    "measures",
    "median_norm",
    "met",
    "minimum",
    "paired",
    "paired_norms",
    "plain",
    "probed",
    "rho_2",
    "rho_cw",
    "rho_inf",
    "robust_accuracy",
    "same_images",
    "share",
    "smallest_norms",
    "standing",
    "success_rate",
    "summary",
    "threats",
    "training_set_distance",
    "unmeasured",
    "worst_case",
]

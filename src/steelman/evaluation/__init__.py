"""Evaluation: a table of attacked images, and the measures, curves and reports that are read from it."""

from steelman.evaluation.evaluate import FromPrediction, evaluate
from steelman.evaluation.measures import (
    Measure,
    accuracy,
    clean_accuracy,
    l_2,
    mean_norm,
    measures,
    median_norm,
    minimum,
    rho_2,
    robust_accuracy,
    smallest_norms,
    summary,
    worst_case,
)
from steelman.evaluation.table import Evaluation

__all__ = [
    "Evaluation",
    "FromPrediction",
    "Measure",
    "accuracy",
    "clean_accuracy",
    "evaluate",
    "l_2",
    "mean_norm",
    "measures",
    "median_norm",
    "minimum",
    "rho_2",
    "robust_accuracy",
    "smallest_norms",
    "summary",
    "worst_case",
]

"""Evaluation: a table of attacked images, and the measures, curves and reports that are read from it."""

from steelman.evaluation.block import FromPrediction
from steelman.evaluation.curves import Curve, curve
from steelman.evaluation.draws import DrawnAccuracy, StepLosses, accuracy_over_draws, loss_by_step
from steelman.evaluation.entry import Entry
from steelman.evaluation.evaluate import evaluate
from steelman.evaluation.export import csv_table, json_table, terminal_table, write
from steelman.evaluation.gallery import Gallery
from steelman.evaluation.measures import (
    Measure,
    accuracy,
    clean_accuracy,
    l_2,
    mean_margin,
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
from steelman.evaluation.plots import draw_convergence, draw_curves, figures, save_figure
from steelman.evaluation.probes import Probe
from steelman.evaluation.reference import reference_attacks, reference_epsilon
from steelman.evaluation.report import verdict, write_report
from steelman.evaluation.table import Evaluation

__all__ = [
    "Curve",
    "DrawnAccuracy",
    "Entry",
    "Evaluation",
    "FromPrediction",
    "Gallery",
    "Measure",
    "Probe",
    "StepLosses",
    "accuracy",
    "accuracy_over_draws",
    "clean_accuracy",
    "csv_table",
    "curve",
    "draw_convergence",
    "draw_curves",
    "evaluate",
    "figures",
    "json_table",
    "l_2",
    "loss_by_step",
    "mean_margin",
    "mean_norm",
    "measures",
    "median_norm",
    "minimum",
    "reference_attacks",
    "reference_epsilon",
    "rho_2",
    "robust_accuracy",
    "save_figure",
    "smallest_norms",
    "summary",
    "terminal_table",
    "verdict",
    "worst_case",
    "write",
    "write_report",
]

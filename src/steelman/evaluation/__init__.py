"""Evaluation: a table of attacked images, and the measures, curves and reports that are read from it."""

from steelman.evaluation.block import FromPrediction
from steelman.evaluation.curves import Curve, against, by_time, convergence, curve, success_rates
from steelman.evaluation.draws import DrawnAccuracy, StepCurve, accuracy_over_draws, step_curve
from steelman.evaluation.entry import Entry
from steelman.evaluation.evaluate import evaluate
from steelman.evaluation.export import csv_table, json_table, terminal_table, write
from steelman.evaluation.gallery import Gallery
from steelman.evaluation.line import Axis, Comparison, Line, Point, at_equal
from steelman.evaluation.measures import (
    Measure,
    Unmeasured,
    accuracy,
    average_accuracy,
    clean_accuracy,
    empirical_robustness,
    l_2,
    mean_margin,
    mean_norm,
    measures,
    median_norm,
    minimum,
    rho_2,
    rho_cw,
    rho_inf,
    robust_accuracy,
    smallest_norms,
    success_rate,
    summary,
    unmeasured,
    worst_case,
)
from steelman.evaluation.plots import draw_convergence, draw_curves, draw_lines, draw_robustness, figures, save_figure
from steelman.evaluation.probes import Probe
from steelman.evaluation.reference import reference_attacks, reference_epsilon
from steelman.evaluation.report import verdict, write_report
from steelman.evaluation.robustness import default_measure, named_measure, robustness_curve
from steelman.evaluation.table import Evaluation
from steelman.evaluation.transfer import Transfer, transfer

__all__ = [
    "Axis",
    "Comparison",
    "Curve",
    "DrawnAccuracy",
    "Entry",
    "Evaluation",
    "FromPrediction",
    "Gallery",
    "Line",
    "Measure",
    "Point",
    "Probe",
    "StepCurve",
    "Transfer",
    "Unmeasured",
    "accuracy",
    "accuracy_over_draws",
    "against",
    "at_equal",
    "average_accuracy",
    "by_time",
    "clean_accuracy",
    "convergence",
    "csv_table",
    "curve",
    "default_measure",
    "draw_convergence",
    "draw_curves",
    "draw_lines",
    "draw_robustness",
    "empirical_robustness",
    "evaluate",
    "figures",
    "json_table",
    "l_2",
    "mean_margin",
    "mean_norm",
    "measures",
    "median_norm",
    "minimum",
    "named_measure",
    "reference_attacks",
    "reference_epsilon",
    "rho_2",
    "rho_cw",
    "rho_inf",
    "robust_accuracy",
    "robustness_curve",
    "save_figure",
    "smallest_norms",
    "step_curve",
    "success_rate",
    "success_rates",
    "summary",
    "terminal_table",
    "transfer",
    "unmeasured",
    "verdict",
    "worst_case",
    "write",
    "write_report",
]

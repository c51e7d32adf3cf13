"""Evaluation: a table of attacked images, and the measures, curves and reports that are read from it."""

from steelman.attacks.from_prediction import FromPrediction
from steelman.evaluation import measures as measures_
from steelman.evaluation.battery import Battery, battery_names, default_radius, load_battery, named_battery
from steelman.evaluation.black_box import black_box_table, transfer_table
from steelman.evaluation.checkup.checkup import Checkup, checkup
from steelman.evaluation.checkup.finding import Finding
from steelman.evaluation.checkup.signs import Sign, sign_attacks, signs
from steelman.evaluation.curves.curves import Curve, against, by_time, convergence, curve, success_rates
from steelman.evaluation.curves.draws import DrawnAccuracy, StepCurve, accuracy_over_draws, step_curve
from steelman.evaluation.curves.line import Axis, Comparison, Line, Point, at_equal
from steelman.evaluation.curves.plots import (
    draw_convergence,
    draw_curves,
    draw_lines,
    draw_robustness,
    figures,
    save_figure,
)
from steelman.evaluation.curves.robustness import default_measure, named_measure, robustness_curve
from steelman.evaluation.evaluate import evaluate
from steelman.evaluation.measures import *  # noqa: F403
from steelman.evaluation.probes import CLEVER, PASS, LossSensitivity, Probe, TrainingSetDistance
from steelman.evaluation.reference import reference_attacks, reference_epsilon
from steelman.evaluation.report import verdict, write_report
from steelman.evaluation.report.compared import Duel, compared
from steelman.evaluation.report.entry import Entry
from steelman.evaluation.report.export import csv_table, write
from steelman.evaluation.report.gallery import Gallery
from steelman.evaluation.report.paper_table import Column, PaperTable
from steelman.evaluation.report.papers import measures_table, paper_table
from steelman.evaluation.report.results import results
from steelman.evaluation.report.waterfall import Waterfall, waterfall
from steelman.evaluation.table import Evaluation
from steelman.evaluation.transfer.transfer import Transfer, transfer

__all__ = [
    "CLEVER",
    "PASS",
    "Axis",
    "Battery",
    "Checkup",
    "Column",
    "Comparison",
    "Curve",
    "DrawnAccuracy",
    "Duel",
    "Entry",
    "Evaluation",
    "Finding",
    "FromPrediction",
    "Gallery",
    "Line",
    "LossSensitivity",
    "PaperTable",
    "Point",
    "Probe",
    "Sign",
    "StepCurve",
    "TrainingSetDistance",
    "Transfer",
    "Waterfall",
    "accuracy_over_draws",
    "against",
    "at_equal",
    "battery_names",
    "black_box_table",
    "by_time",
    "checkup",
    "compared",
    "convergence",
    "csv_table",
    "curve",
    "default_measure",
    "default_radius",
    "draw_convergence",
    "draw_curves",
    "draw_lines",
    "draw_robustness",
    "evaluate",
    "figures",
    "load_battery",
    "measures_table",
    "named_battery",
    "named_measure",
    "paper_table",
    "reference_attacks",
    "reference_epsilon",
    "results",
    "robustness_curve",
    "save_figure",
    "sign_attacks",
    "signs",
    "step_curve",
    "success_rates",
    "transfer",
    "transfer_table",
    "verdict",
    "waterfall",
    "write",
    "write_report",
]
__all__ += measures_.__all__

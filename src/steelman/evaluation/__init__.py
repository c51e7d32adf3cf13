"""Makes tables of attacked images: evaluations, transfers, and the batteries to attack with."""

from steelman.evaluation.battery import (
    Battery,
    battery_names,
    default_radius,
    load_battery,
    named_battery,
    sign_attacks,
)
from steelman.evaluation.draws import DrawnAccuracy, StepCurve, accuracy_over_draws, step_curve
from steelman.evaluation.eps_ref import reference_attacks, reference_epsilon
from steelman.evaluation.evaluation import evaluate
from steelman.evaluation.probes import CLEVER, PASS, LossSensitivity, Probe, TrainingSetDistance
from steelman.evaluation.transferability import transfer

__all__ = [
    "CLEVER",
    "PASS",
    "Battery",
    "DrawnAccuracy",
    "LossSensitivity",
    "Probe",
    "StepCurve",
    "TrainingSetDistance",
    "accuracy_over_draws",
    "battery_names",
    "default_radius",
    "evaluate",
    "load_battery",
    "named_battery",
    "reference_attacks",
    "reference_epsilon",
    "sign_attacks",
    "step_curve",
    "transfer",
]

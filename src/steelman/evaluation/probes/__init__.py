"""Probes: numbers that are measured of images beside the attacks, one column of the table each."""

from steelman.evaluation.probes.clever import CLEVER
from steelman.evaluation.probes.loss_sensitivity import LossSensitivity
from steelman.evaluation.probes.perceptual import PASS
from steelman.evaluation.probes.probe import Probe
from steelman.evaluation.probes.training_set_distance import TrainingSetDistance

__all__ = ["CLEVER", "PASS", "LossSensitivity", "Probe", "TrainingSetDistance"]

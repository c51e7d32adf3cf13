"""Detectors of adversarial images, and networks that reject what one of them finds."""

from steelman.detectors.detector import Detector, Rejecting
from steelman.detectors.lid import LID
from steelman.detectors.unsure import Confidence, FeatureSqueezing

__all__ = ["LID", "Confidence", "Detector", "FeatureSqueezing", "Rejecting"]

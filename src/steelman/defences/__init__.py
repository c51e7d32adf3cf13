"""Defences: one file per paper. Each is a frozen dataclass, an objective that is called with a model and a batch."""

from steelman.defences.adversarial_training import AdversarialTraining
from steelman.defences.deep_defense import DeepDefense
from steelman.defences.objective import Objective, Sum
from steelman.defences.plain import Plain

__all__ = ["AdversarialTraining", "DeepDefense", "Objective", "Plain", "Sum"]

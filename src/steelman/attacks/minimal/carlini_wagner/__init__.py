"""Carlini and Wagner's three attacks, by norm."""

from steelman.attacks.minimal.carlini_wagner.l0 import CarliniWagnerL0
from steelman.attacks.minimal.carlini_wagner.l2 import CarliniWagner
from steelman.attacks.minimal.carlini_wagner.linf import CarliniWagnerLinf

__all__ = ["CarliniWagner", "CarliniWagnerL0", "CarliniWagnerLinf"]

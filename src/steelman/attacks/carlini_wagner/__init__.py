"""Carlini and Wagner's three attacks, by norm."""

from steelman.attacks.carlini_wagner.l2 import CarliniWagner

__all__ = ["CarliniWagner"]

"""Checks of a model before any attack."""

from steelman.checkup.checks import checkup
from steelman.checkup.findings import Checkup, Finding

__all__ = ["Checkup", "Finding", "checkup"]

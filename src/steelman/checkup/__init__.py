"""Checks of a model before any attack."""

from steelman.checkup.finding import Finding
from steelman.checkup.findings import Checkup, checkup

__all__ = ["Checkup", "Finding", "checkup"]

"""Probes: what is measured of an image beside its attack, one column of the table each."""

from steelman.evaluation.probes.probe import Probe

__all__ = ["Probe"]

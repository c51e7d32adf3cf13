"""Attacks made for one model: what is suspected is attacked around."""

from steelman.adaptive.adaptive import Adaptive
from steelman.adaptive.gradients import Adapted, adapted
from steelman.adaptive.nearby import Nearby
from steelman.adaptive.plan import Adaptation, adaptation
from steelman.adaptive.pupils import Pupil, pupil

__all__ = ["Adaptation", "Adapted", "Adaptive", "Nearby", "Pupil", "adaptation", "adapted", "pupil"]

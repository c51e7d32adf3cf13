"""Attacks made for one model: what is suspected is attacked around."""

from steelman.adaptive.adaptation import Adaptation, adaptation
from steelman.adaptive.adapted import Adapted, adapted
from steelman.adaptive.adaptive import Adaptive
from steelman.adaptive.nearby import Nearby
from steelman.adaptive.pupil import Pupil, pupil

__all__ = ["Adaptation", "Adapted", "Adaptive", "Nearby", "Pupil", "adaptation", "adapted", "pupil"]

"""What every attack is made of: the contract, the oracle, balls and grids, and the types of a method's signature."""

from steelman.attacks.core.attack import (
    Access,
    Attack,
    AttackResult,
    AttackWrapper,
    Reference,
    check_parts,
    strongest,
)
from steelman.attacks.core.ball import Ball
from steelman.attacks.core.best import Best
from steelman.attacks.core.crafting import Execution, check_images, check_labels, craft
from steelman.attacks.core.mode import buffers_kept, evaluation_mode, in_training, warn_if_mode_matters
from steelman.attacks.core.oracle import Oracle, OutOfTime
from steelman.attacks.core.radius import check_radii, check_radius
from steelman.losses import Goal
from steelman.randomness import Draws
from steelman.types import Images, Indices, Radius, Share

__all__ = [
    "Access",
    "Attack",
    "AttackResult",
    "AttackWrapper",
    "Ball",
    "Best",
    "Draws",
    "Execution",
    "Goal",
    "Images",
    "Indices",
    "Oracle",
    "OutOfTime",
    "Radius",
    "Reference",
    "Share",
    "buffers_kept",
    "check_images",
    "check_labels",
    "check_parts",
    "check_radii",
    "check_radius",
    "craft",
    "evaluation_mode",
    "in_training",
    "strongest",
    "warn_if_mode_matters",
]

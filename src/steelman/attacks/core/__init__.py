"""What every attack is made of: the contract, the oracle, balls and grids."""

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

__all__ = [
    "Access",
    "Attack",
    "AttackResult",
    "AttackWrapper",
    "Ball",
    "Best",
    "Execution",
    "Oracle",
    "OutOfTime",
    "Reference",
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

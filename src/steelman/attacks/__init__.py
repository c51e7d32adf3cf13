"""Attacks: one file per paper. Each is a frozen dataclass that is called with a model, images and labels."""

from steelman.attacks.apgd import APGD
from steelman.attacks.attack import Attack, AttackResult
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.boundary import BoundaryAttack
from steelman.attacks.carlini_wagner import CarliniWagner
from steelman.attacks.ddn import DDN
from steelman.attacks.deepfool import DeepFool
from steelman.attacks.eot import EOT
from steelman.attacks.fab import FAB
from steelman.attacks.fgsm import FGSM
from steelman.attacks.fmn import FMN
from steelman.attacks.hop_skip_jump import HopSkipJump
from steelman.attacks.jsma import JSMA
from steelman.attacks.pgd import PGD
from steelman.attacks.square import Square
from steelman.attacks.surrogate import Surrogate
from steelman.attacks.worst_of import BestOf, WorstOf

__all__ = [
    "APGD",
    "DDN",
    "EOT",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "BestOf",
    "BoundaryAttack",
    "CarliniWagner",
    "DeepFool",
    "HopSkipJump",
    "Square",
    "Surrogate",
    "WorstOf",
]

"""Attacks: one file per paper. Each is a frozen dataclass that is called with a model, images and labels."""

from steelman.attacks.attack import Attack, AttackResult
from steelman.attacks.carlini_wagner import CarliniWagner
from steelman.attacks.ddn import DDN
from steelman.attacks.deepfool import DeepFool
from steelman.attacks.eot import EOT
from steelman.attacks.fab import FAB
from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD
from steelman.attacks.surrogate import Surrogate
from steelman.attacks.worst_of import BestOf, WorstOf

__all__ = [
    "DDN",
    "EOT",
    "FAB",
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "BestOf",
    "CarliniWagner",
    "DeepFool",
    "Surrogate",
    "WorstOf",
]

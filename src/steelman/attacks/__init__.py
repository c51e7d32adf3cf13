"""Attacks: one file per paper. Each is a frozen dataclass that is called with a model, images and labels."""

from steelman.attacks.alma import ALMA
from steelman.attacks.an_pgd import ANPGD
from steelman.attacks.apgd import APGD
from steelman.attacks.attack import Attack, AttackResult
from steelman.attacks.auto_attack import AutoAttack
from steelman.attacks.boundary import BoundaryAttack
from steelman.attacks.carlini_wagner import CarliniWagner, CarliniWagnerL0, CarliniWagnerLinf
from steelman.attacks.ddn import DDN
from steelman.attacks.deepfool import DeepFool
from steelman.attacks.eot import EOT
from steelman.attacks.fab import FAB
from steelman.attacks.fgsm import FGSM, RandomFGSM
from steelman.attacks.fmn import FMN
from steelman.attacks.hop_skip_jump import HopSkipJump
from steelman.attacks.jsma import JSMA
from steelman.attacks.lbfgs import LBFGS
from steelman.attacks.mim import MIM
from steelman.attacks.minimal_fgsm import MinimalFGSM
from steelman.attacks.noise import GaussianNoise, SaltAndPepper, UniformNoise
from steelman.attacks.over_targets import OverTargets, over_targets
from steelman.attacks.pgd import PGD
from steelman.attacks.sigma_zero import SigmaZero
from steelman.attacks.square import Square
from steelman.attacks.surrogate import (
    IgnoringFilter,
    Surrogate,
)
from steelman.attacks.universal import UniversalPerturbation
from steelman.attacks.vat import VirtualAdversarial
from steelman.attacks.within import Within
from steelman.attacks.worst_of import BestOf, WorstOf

__all__ = [
    "ALMA",
    "ANPGD",
    "APGD",
    "DDN",
    "EOT",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "LBFGS",
    "MIM",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "BestOf",
    "BoundaryAttack",
    "CarliniWagner",
    "CarliniWagnerL0",
    "CarliniWagnerLinf",
    "DeepFool",
    "GaussianNoise",
    "HopSkipJump",
    "IgnoringFilter",
    "MinimalFGSM",
    "OverTargets",
    "RandomFGSM",
    "SaltAndPepper",
    "SigmaZero",
    "Square",
    "Surrogate",
    "UniformNoise",
    "UniversalPerturbation",
    "VirtualAdversarial",
    "Within",
    "WorstOf",
    "over_targets",
]

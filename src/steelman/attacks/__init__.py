"""Attacks: one file per paper. Each is a frozen dataclass that is called with a model, images and labels."""

from steelman.attacks.bounded.apgd import APGD
from steelman.attacks.bounded.fgsm import FGSM, RandomFGSM
from steelman.attacks.bounded.ls_pga import LSPGA
from steelman.attacks.bounded.mim import MIM
from steelman.attacks.bounded.noise import GaussianNoise, SaltAndPepper, SigmaNoise, UniformNoise
from steelman.attacks.bounded.pgd import PGD
from steelman.attacks.bounded.square import Square
from steelman.attacks.bounded.vat import VirtualAdversarial
from steelman.attacks.composed.auto_attack import AutoAttack
from steelman.attacks.composed.cascade import CascadeAttack
from steelman.attacks.composed.eot import EOT
from steelman.attacks.composed.latent import Latent
from steelman.attacks.composed.naive import IgnoringFilter, Naive
from steelman.attacks.composed.smallest_radius import SmallestRadius
from steelman.attacks.composed.surrogate import Surrogate
from steelman.attacks.composed.towards import Towards, every_target
from steelman.attacks.composed.universal import UniversalPerturbation
from steelman.attacks.composed.within import Within
from steelman.attacks.composed.worst_of import BestOf, WorstOf
from steelman.attacks.core.attack import Attack, AttackResult
from steelman.attacks.decision.boundary import BoundaryAttack
from steelman.attacks.decision.hop_skip_jump import HopSkipJump
from steelman.attacks.minimal.alma import ALMA
from steelman.attacks.minimal.an_pgd import ANPGD
from steelman.attacks.minimal.carlini_wagner import CarliniWagner, CarliniWagnerL0, CarliniWagnerLinf
from steelman.attacks.minimal.ddn import DDN
from steelman.attacks.minimal.deepfool import DeepFool
from steelman.attacks.minimal.fab import FAB
from steelman.attacks.minimal.fmn import FMN
from steelman.attacks.minimal.jsma import JSMA
from steelman.attacks.minimal.lbfgs import LBFGS
from steelman.attacks.minimal.minimal_fgsm import MinimalFGSM
from steelman.attacks.minimal.sigma_zero import SigmaZero

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
    "LSPGA",
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
    "CascadeAttack",
    "DeepFool",
    "GaussianNoise",
    "HopSkipJump",
    "IgnoringFilter",
    "Latent",
    "MinimalFGSM",
    "Naive",
    "RandomFGSM",
    "SaltAndPepper",
    "SigmaNoise",
    "SigmaZero",
    "SmallestRadius",
    "Square",
    "Surrogate",
    "Towards",
    "UniformNoise",
    "UniversalPerturbation",
    "VirtualAdversarial",
    "Within",
    "WorstOf",
    "every_target",
]

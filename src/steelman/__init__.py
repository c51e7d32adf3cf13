"""Train image classifiers that resist adversarial attack, and find out honestly whether they do."""

from steelman.attacks import (
    ANPGD,
    APGD,
    DDN,
    EOT,
    FAB,
    FGSM,
    FMN,
    JSMA,
    MIM,
    PGD,
    AutoAttack,
    BestOf,
    BoundaryAttack,
    CarliniWagner,
    DeepFool,
    GaussianNoise,
    HopSkipJump,
    MinimalFGSM,
    RandomFGSM,
    SaltAndPepper,
    Square,
    Surrogate,
    UniformNoise,
    VirtualAdversarial,
    WorstOf,
)
from steelman.defences import AdversarialTraining, DeepDefense, Plain, Sum
from steelman.evaluation import evaluate
from steelman.filters import BPDA
from steelman.norms import L0, L1, L2, Linf
from steelman.training import Training, fit
from steelman.types import Batch

__version__ = "0.1.0"

__all__ = [
    "ANPGD",
    "APGD",
    "BPDA",
    "DDN",
    "EOT",
    "FAB",
    "FGSM",
    "FMN",
    "JSMA",
    "L0",
    "L1",
    "L2",
    "MIM",
    "PGD",
    "AdversarialTraining",
    "AutoAttack",
    "Batch",
    "BestOf",
    "BoundaryAttack",
    "CarliniWagner",
    "DeepDefense",
    "DeepFool",
    "GaussianNoise",
    "HopSkipJump",
    "Linf",
    "MinimalFGSM",
    "Plain",
    "RandomFGSM",
    "SaltAndPepper",
    "Square",
    "Sum",
    "Surrogate",
    "Training",
    "UniformNoise",
    "VirtualAdversarial",
    "WorstOf",
    "evaluate",
    "fit",
]

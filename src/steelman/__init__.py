"""Train image classifiers that resist adversarial attack, and find out honestly whether they do."""

from steelman.attacks import (
    APGD,
    DDN,
    EOT,
    FAB,
    FGSM,
    FMN,
    PGD,
    AutoAttack,
    BestOf,
    BoundaryAttack,
    CarliniWagner,
    DeepFool,
    HopSkipJump,
    Square,
    Surrogate,
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
    "APGD",
    "BPDA",
    "DDN",
    "EOT",
    "FAB",
    "FGSM",
    "FMN",
    "L0",
    "L1",
    "L2",
    "PGD",
    "AdversarialTraining",
    "AutoAttack",
    "Batch",
    "BestOf",
    "BoundaryAttack",
    "CarliniWagner",
    "DeepDefense",
    "DeepFool",
    "HopSkipJump",
    "Linf",
    "Plain",
    "Square",
    "Sum",
    "Surrogate",
    "Training",
    "WorstOf",
    "evaluate",
    "fit",
]

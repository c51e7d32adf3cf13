"""Attacks: one file per paper. Each is a frozen dataclass that is called with a model, images and labels."""

from steelman.attacks.attack import Attack, AttackResult
from steelman.attacks.carlini_wagner import CarliniWagner
from steelman.attacks.deepfool import DeepFool
from steelman.attacks.fgsm import FGSM
from steelman.attacks.pgd import PGD

__all__ = ["FGSM", "PGD", "Attack", "AttackResult", "CarliniWagner", "DeepFool"]

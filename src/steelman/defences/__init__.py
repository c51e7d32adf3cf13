"""Defences: one file per paper. Each is a frozen dataclass, most of them an objective."""

from steelman.defences.adv_bnn import AdvBNN
from steelman.defences.adversarial import Adversarial
from steelman.defences.adversarial_training import AdversarialTraining
from steelman.defences.awp import AWP
from steelman.defences.bilateral import Bilateral
from steelman.defences.cascade import Cascade
from steelman.defences.cross_lipschitz import CrossLipschitz
from steelman.defences.deep_defense import DeepDefense
from steelman.defences.distillation import Distillation
from steelman.defences.free import Free
from steelman.defences.game import Game
from steelman.defences.generative import Denoising, PixelLikelihood, WassersteinGAN  # noqa: F401 (recipes name them)
from steelman.defences.input_gradient import InputGradientRegularisation
from steelman.defences.jacobian import JacobianRegularisation
from steelman.defences.label_smoothing import LabelSmoothing
from steelman.defences.mart import MART
from steelman.defences.mma import MMA
from steelman.defences.noise_augmentation import GaussianAugmentation, NoiseMixture, UniformAugmentation
from steelman.defences.objective import Objective, Sum
from steelman.defences.orthogonal import Orthogonal
from steelman.defences.parseval import Parseval
from steelman.defences.plain import Plain
from steelman.defences.steady_state import SteadyState
from steelman.defences.trades import TRADES
from steelman.defences.vat import VAT
from steelman.defences.yopo import YOPO, TradesYOPO

__all__ = [
    "AWP",
    "MART",
    "MMA",
    "TRADES",
    "VAT",
    "YOPO",
    "AdvBNN",
    "Adversarial",
    "AdversarialTraining",
    "Bilateral",
    "Cascade",
    "CrossLipschitz",
    "DeepDefense",
    "Distillation",
    "Free",
    "Game",
    "GaussianAugmentation",
    "InputGradientRegularisation",
    "JacobianRegularisation",
    "LabelSmoothing",
    "NoiseMixture",
    "Objective",
    "Orthogonal",
    "Parseval",
    "Plain",
    "SteadyState",
    "Sum",
    "TradesYOPO",
    "UniformAugmentation",
]

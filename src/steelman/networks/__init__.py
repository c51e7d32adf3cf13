"""Networks, and the fixed layers that stand before them. Each is made for the images and classes of a data set."""

from steelman.networks.bayesian_layers import Bayesian, bayesian
from steelman.networks.black_box import BlackBox, LogOfProbabilities
from steelman.networks.bounded_relu import BoundedReLU, bounded_relus
from steelman.networks.building import build
from steelman.networks.cifar import NIN, ConvNet, ConvPoolCNN
from steelman.networks.denoising import FeatureDenoising
from steelman.networks.ensemble import Ensemble, LogitEnsemble
from steelman.networks.filtered import Filtered
from steelman.networks.generative import (
    DenoisingAutoencoder,
    GANCritic,
    GANGenerator,
    MLPCritic,
    MLPGenerator,
    PixelCNN,
)
from steelman.networks.initial import NormalInit
from steelman.networks.layers import Rescale
from steelman.networks.mean_of_draws import MeanOfDraws
from steelman.networks.mnist import CNN, MLP, CarliniNet, ConvResNet, LeNet, LeNet5, MadryNet, SmallCNN
from steelman.networks.ode import ODENet
from steelman.networks.preprocess import Normalise, Preprocess, Preprocessed, StandardiseImage, SubtractMean, Whiten
from steelman.networks.random_layers import (
    ActiveDropout,
    AddedNoise,
    RelativeNoise,
    StochasticPruning,
    active_dropout,
    noisy_blocks,
    self_ensemble,
    stochastic_pruning,
)
from steelman.networks.residual import PreActResNet18, ResNet20, WideResNet
from steelman.networks.surgery import (
    Stem,
    batchnorm_layers,
    borrowed_buffers,
    denoise,
    freeze_batchnorm,
    only_trainable,
    split_stem,
)
from steelman.networks.vision import AlexNet, ResNet18

__all__ = [
    "CNN",
    "MLP",
    "NIN",
    "ActiveDropout",
    "AddedNoise",
    "AlexNet",
    "Bayesian",
    "BlackBox",
    "BoundedReLU",
    "CarliniNet",
    "ConvNet",
    "ConvPoolCNN",
    "ConvResNet",
    "DenoisingAutoencoder",
    "Ensemble",
    "FeatureDenoising",
    "Filtered",
    "GANCritic",
    "GANGenerator",
    "LeNet",
    "LeNet5",
    "LogOfProbabilities",
    "LogitEnsemble",
    "MLPCritic",
    "MLPGenerator",
    "MadryNet",
    "MeanOfDraws",
    "NormalInit",
    "Normalise",
    "ODENet",
    "PixelCNN",
    "PreActResNet18",
    "Preprocess",
    "Preprocessed",
    "RelativeNoise",
    "ResNet18",
    "ResNet20",
    "Rescale",
    "SmallCNN",
    "StandardiseImage",
    "Stem",
    "StochasticPruning",
    "SubtractMean",
    "Whiten",
    "WideResNet",
    "active_dropout",
    "batchnorm_layers",
    "bayesian",
    "borrowed_buffers",
    "bounded_relus",
    "build",
    "denoise",
    "freeze_batchnorm",
    "noisy_blocks",
    "only_trainable",
    "self_ensemble",
    "split_stem",
    "stochastic_pruning",
]

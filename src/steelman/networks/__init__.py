"""Networks, and the fixed layers that stand before them. Each is made for the images and classes of a data set."""

from steelman.adversaries.generators.advgan import AdvGANCritic, AdvGANGenerator
from steelman.adversaries.generators.pgn_generator import PGNGenerator
from steelman.adversaries.generators.resnet_generator import ResNetGenerator
from steelman.networks.black_box import BlackBox, LogOfProbabilities
from steelman.networks.bounded_relu import BoundedReLU, bounded_relus
from steelman.networks.building import build
from steelman.networks.carlini import CarliniNet
from steelman.networks.cnn import CNN
from steelman.networks.conv_resnet import ConvResNet
from steelman.networks.convnet import ConvNet
from steelman.networks.convpool import ConvPoolCNN
from steelman.networks.ensemble import Ensemble
from steelman.networks.filtered import Filtered
from steelman.networks.lenet import LeNet
from steelman.networks.lenet5 import LeNet5
from steelman.networks.madry import MadryNet
from steelman.networks.mlp import MLP
from steelman.networks.nin import NIN
from steelman.networks.preact_resnet import PreActResNet18
from steelman.networks.preprocess import Normalise, Preprocess, Preprocessed, StandardiseImage, SubtractMean
from steelman.networks.rescale import Rescale
from steelman.networks.resnet20 import ResNet20
from steelman.networks.small_cnn import SmallCNN
from steelman.networks.surgery import (
    Stem,
    batchnorm_layers,
    borrowed_buffers,
    freeze_batchnorm,
    only_trainable,
    split_stem,
)
from steelman.networks.vision import AlexNet, ResNet18
from steelman.networks.whiten import Whiten
from steelman.networks.wide_resnet import WideResNet

__all__ = [
    "CNN",
    "MLP",
    "NIN",
    "AdvGANCritic",
    "AdvGANGenerator",
    "AlexNet",
    "BlackBox",
    "BoundedReLU",
    "CarliniNet",
    "ConvNet",
    "ConvPoolCNN",
    "ConvResNet",
    "Ensemble",
    "Filtered",
    "LeNet",
    "LeNet5",
    "LogOfProbabilities",
    "MadryNet",
    "Normalise",
    "PGNGenerator",
    "PreActResNet18",
    "Preprocess",
    "Preprocessed",
    "ResNet18",
    "ResNet20",
    "ResNetGenerator",
    "Rescale",
    "SmallCNN",
    "StandardiseImage",
    "Stem",
    "SubtractMean",
    "Whiten",
    "WideResNet",
    "batchnorm_layers",
    "borrowed_buffers",
    "bounded_relus",
    "build",
    "freeze_batchnorm",
    "only_trainable",
    "split_stem",
]

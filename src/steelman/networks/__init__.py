"""Networks, and the fixed layers that stand before them. Each is made for the images and classes of a data set."""

from steelman.networks.bounded_relu import BoundedReLU, bounded_relus
from steelman.networks.building import build
from steelman.networks.carlini import CarliniNet
from steelman.networks.cnn import CNN
from steelman.networks.convnet import ConvNet
from steelman.networks.lenet import LeNet
from steelman.networks.madry import MadryNet
from steelman.networks.mlp import MLP
from steelman.networks.nin import NIN
from steelman.networks.preprocess import Normalise, Preprocess, Preprocessed, SubtractMean
from steelman.networks.rescale import Rescale
from steelman.networks.small_cnn import SmallCNN
from steelman.networks.surgery import batchnorm_layers, borrowed_buffers, freeze_batchnorm, only_trainable
from steelman.networks.vision import AlexNet, ResNet18
from steelman.networks.whiten import Whiten

__all__ = [
    "CNN",
    "MLP",
    "NIN",
    "AlexNet",
    "BoundedReLU",
    "CarliniNet",
    "ConvNet",
    "LeNet",
    "MadryNet",
    "Normalise",
    "Preprocess",
    "Preprocessed",
    "ResNet18",
    "Rescale",
    "SmallCNN",
    "SubtractMean",
    "Whiten",
    "batchnorm_layers",
    "borrowed_buffers",
    "bounded_relus",
    "build",
    "freeze_batchnorm",
    "only_trainable",
]

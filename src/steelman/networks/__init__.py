"""Networks, and the fixed layers that stand before them."""

from steelman.networks.lenet import LeNet
from steelman.networks.mlp import MLP
from steelman.networks.preprocess import Normalise, Preprocess, Preprocessed, SubtractMean

__all__ = ["MLP", "LeNet", "Normalise", "Preprocess", "Preprocessed", "SubtractMean"]

"""Data sets: where they come from, how they are cut, and how their images are varied."""

from steelman.data.dataset import Dataset, Source, Split
from steelman.data.digits import Digits
from steelman.data.idx import KMNIST, MNIST, FashionMNIST
from steelman.data.memory import InMemory
from steelman.data.split import split_off

__all__ = ["KMNIST", "MNIST", "Dataset", "Digits", "FashionMNIST", "InMemory", "Source", "Split", "split_off"]

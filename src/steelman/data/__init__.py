"""Data sets, their splits, and random variations of their images."""

from steelman.data.arrays import Arrays
from steelman.data.augment import Augmentation, Flip, PadCrop
from steelman.data.cifar import CIFAR10, CIFAR100
from steelman.data.dataset import Dataset, Source, Split
from steelman.data.digits import Digits
from steelman.data.external import External
from steelman.data.folder import ImageFolder
from steelman.data.hugging_face import HuggingFace
from steelman.data.idx import KMNIST, MNIST, FashionMNIST
from steelman.data.memory import InMemory
from steelman.data.parquet import Parquet
from steelman.data.sample import Sampled, sampled, split_off
from steelman.data.shards import Shards
from steelman.data.stream import Streamed
from steelman.data.svhn import SVHN
from steelman.data.torchvision_sets import TorchVision

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "KMNIST",
    "MNIST",
    "SVHN",
    "Arrays",
    "Augmentation",
    "Dataset",
    "Digits",
    "External",
    "FashionMNIST",
    "Flip",
    "HuggingFace",
    "ImageFolder",
    "InMemory",
    "PadCrop",
    "Parquet",
    "Sampled",
    "Shards",
    "Source",
    "Split",
    "Streamed",
    "TorchVision",
    "sampled",
    "split_off",
]

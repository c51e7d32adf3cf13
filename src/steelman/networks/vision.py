"""ImageNet's networks, from torchvision where it is installed."""

import importlib
from collections.abc import Sequence

from torch import nn

from steelman.networks.layers import check_shape


def AlexNet(*, shape: Sequence[int] = (3, 224, 224), classes: int = 1000, weights: str | None = None) -> nn.Module:
    """torchvision's AlexNet; expects its input normalised (`Normalise`).

    shape    of one image, default (3, 224, 224); three channels, at least 63x63 pixels
    classes  default 1000
    weights  torchvision's name of trained weights, such as "IMAGENET1K_V1" (a download); default None

    Raises:
        ImportError: torchvision is not installed, or built for another torch.
    Reference: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
    """
    return _torchvision("alexnet", "AlexNet", shape, 63, classes, weights)


def ResNet18(*, shape: Sequence[int] = (3, 224, 224), classes: int = 1000, weights: str | None = None) -> nn.Module:
    """torchvision's ResNet-18; expects its input normalised (`Normalise`).

    shape    of one image, default (3, 224, 224); three channels, at least 32x32 pixels
    classes  default 1000
    weights  torchvision's name of trained weights, such as "IMAGENET1K_V1" (a download); default None

    Raises:
        ImportError: torchvision is not installed, or built for another torch.
    Reference: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016.
    """
    return _torchvision("resnet18", "ResNet18", shape, 32, classes, weights)


def _torchvision(
    function: str, name: str, shape: Sequence[int], least: int, classes: int, weights: str | None
) -> nn.Module:
    channels, _, _ = check_shape(name, shape, least)
    if channels != 3:
        raise ValueError(f"{name} needs images of 3 channels; got {channels}")
    if weights is not None and classes != 1000:
        raise ValueError(f"{name}'s trained weights are for 1000 classes; got classes={classes}")
    try:
        models = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise ImportError(f"{name} comes from torchvision ({error}): pip install 'steelman[vision]'") from error
    return models.get_model(function, weights=weights, num_classes=classes)

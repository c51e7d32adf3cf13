"""ConvPool-CNN, the classifier of PGN."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import final

from torch import nn

from steelman.networks.layers import check_shape, numbered


@final
class ConvPoolCNN(nn.Sequential):
    """Three pairs of 3x3 convolutions, each followed by average-pooling; a convolution to the classes, and its mean.

    Conv3-64, Conv3-128, AvgPool2, Conv3-128, Conv3-256, AvgPool2, Conv3-256, Conv3-512, AvgPool2, Conv3-classes, the
    average over the map. Every convolution is padded and followed by LeakyReLU .2, also the last one (code). Weights
    begin as He's normal ones, biases as 0 (code).

    shape    of one image, default (3, 32, 32); at least 8x8 pixels
    classes  default 10: 2,334,730 parameters on CIFAR-10
    width    channels of the first convolution, of which all others are multiples; default 64

    Layers: conv1 .. conv7, relu1 .. relu7, pool1 .. pool3, mean, flatten.
    Reference: Hyeungill Lee, Sungyeob Han and Jungwoo Lee, "Adversarial training with perturbation generator networks",
    OpenReview 2019, section 4.
    """

    def __init__(self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10, width: int = 64) -> None:
        channels, _, _ = check_shape("ConvPoolCNN", shape, 8)
        if width < 1:
            raise ValueError(f"width is a number of channels, at least 1; got {width}")
        sizes = (channels, *(width * factor for factor in (1, 2, 2, 4, 4, 8)), classes)
        layers: list[nn.Module] = []
        for place, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            convolution = nn.Conv2d(fan_in, fan_out, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.LeakyReLU(0.2), *[nn.AvgPool2d(2)] * (place % 2 == 0)]
        super().__init__(OrderedDict(**numbered(*layers), mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))

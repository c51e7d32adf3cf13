"""The convolutional network of MatConvNet's CIFAR-10 example."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.shapes import check_shape


@final
class ConvNet(nn.Sequential):
    """Five convolutions: 5-32, 5-32, 5-64 (padding 2, each followed by pooling), 4-64, 1-classes.

    Conv5-32, MaxPool2, ReLU (in this order), Conv5-32, ReLU, AvgPool2, Conv5-64, ReLU, AvgPool2, Conv4-64, ReLU,
    Conv1-classes. The 4x4 kernel is what is left of 32x32 pixels; for other images conv4 is as large as its map.

    shape    of one image, default (3, 32, 32); at least 8x8 pixels
    classes  default 10: 145,578 parameters on CIFAR-10

    Layers: conv1 .. conv5, pool1 .. pool3, relu1 .. relu4, flatten.
    Reference: Yan, Guo and Zhang, "Deep Defense: training DNNs with improved adversarial robustness", NeurIPS 2018,
    section 4; after MatConvNet's CIFAR-10 example.
    """

    def __init__(self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10) -> None:
        channels, height, width = check_shape("ConvNet", shape, 8)
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, 5, padding=2),
                pool1=nn.MaxPool2d(2),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 32, 5, padding=2),
                relu2=nn.ReLU(),
                pool2=nn.AvgPool2d(2),
                conv3=nn.Conv2d(32, 64, 5, padding=2),
                relu3=nn.ReLU(),
                pool3=nn.AvgPool2d(2),
                conv4=nn.Conv2d(64, 64, (height // 8, width // 8)),
                relu4=nn.ReLU(),
                conv5=nn.Conv2d(64, classes, 1),
                flatten=nn.Flatten(),
            )
        )

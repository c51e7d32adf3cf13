"""The convolutional network of MatConvNet's CIFAR-10 example."""

from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.layers import check_shape, numbered


@final
class ConvNet(nn.Sequential):
    """Five convolutions: 5-32, 5-32, 5-64 (padding 2, each followed by pooling), 4-64, 1-classes.

    Conv5-32, MaxPool2, ReLU (in this order), Conv5-32, ReLU, AvgPool2, Conv5-64, ReLU, AvgPool2, Conv4-64, ReLU,
    Conv1-classes. conv4 is as large as its map, 4x4 for 32x32 pixels.

    shape    of one image, default (3, 32, 32); at least 8x8 pixels
    classes  default 10: 145,578 parameters on CIFAR-10

    Layers: conv1 .. conv5, pool1 .. pool3, relu1 .. relu4, flatten.
    Reference: Yan, Guo and Zhang, "Deep Defense: training DNNs with improved adversarial robustness", NeurIPS 2018,
    section 4; after MatConvNet's CIFAR-10 example.
    """

    def __init__(self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10) -> None:
        channels, height, width = check_shape("ConvNet", shape, 8)
        layers = numbered(
            *(nn.Conv2d(channels, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(64, 64, (height // 8, width // 8)), nn.ReLU(), nn.Conv2d(64, classes, 1), nn.Flatten()),
        )
        super().__init__(layers)

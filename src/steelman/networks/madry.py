"""The network of Madry's MNIST challenge."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.shapes import check_shape


@final
class MadryNet(nn.Sequential):
    """Two 5x5 convolutions with ReLU and max-pooling, two fully connected layers.

    Conv5-32 (padding 2), ReLU, MaxPool2, Conv5-64 (padding 2), ReLU, MaxPool2, FC1024, ReLU, FC. MMA calls it
    LeNet5Madry.

    shape    of one image, default (1, 28, 28); at least 4x4 pixels
    classes  default 10: 3,274,634 parameters on MNIST

    The authors' code draws weights from N(0, .01) and sets biases to .1; ours start as PyTorch's do.
    Layers: conv1, relu1, pool1, conv2, relu2, pool2, flatten, fc1, relu3, fc2.
    Reference: Aleksander Madry, Aleksandar Makelov, Ludwig Schmidt, Dimitris Tsipras and Adrian Vladu, "Towards deep
    learning models resistant to adversarial attacks", ICLR 2018, section 5.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> None:
        channels, height, width = check_shape("MadryNet", shape, 4)
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, 5, padding=2),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(32, 64, 5, padding=2),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(64 * (height // 4) * (width // 4), 1024),
                relu3=nn.ReLU(),
                fc2=nn.Linear(1024, classes),
            )
        )

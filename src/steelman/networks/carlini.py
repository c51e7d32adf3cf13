"""The networks that Carlini and Wagner attack on MNIST and CIFAR-10, after Papernot's for distillation."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.rescale import Rescale
from steelman.networks.shapes import check_shape


@final
class CarliniNet(nn.Sequential):
    """Two pairs of 3x3 convolutions, each pair followed by max-pooling; three fully connected layers.

    Conv3-width twice, MaxPool2, Conv3-(2 width) twice, MaxPool2, FC-hidden, Dropout, FC-hidden, FC; no padding, ReLU
    after every layer but the last. The paper's images lie in [-.5, .5], so .5 is taken from pixels first.

    shape    of one image, default (1, 28, 28); at least 16x16 pixels
    classes  default 10: 312,202 parameters on MNIST; 1,147,978 on CIFAR-10 with the width and hidden of the paper
    width    channels of the first pair, default 32 (MNIST); the paper's CIFAR-10 net has 64
    hidden   units of the fully connected layers, default 200 (MNIST); CIFAR-10: 256
    dropout  after the first of them, default .5

    Layers: rescale, conv1 .. conv4, fc1 .. fc3, relu1 .. relu6, pool1, pool2, flatten, dropout.
    Reference: Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017, table I.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        width: int = 32,
        hidden: int = 200,
        dropout: float = 0.5,
    ) -> None:
        channels, height, length = check_shape("CarliniNet", shape, 16)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, length))
        super().__init__(
            OrderedDict(
                rescale=Rescale(shift=0.5),
                conv1=nn.Conv2d(channels, width, 3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(width, width, 3),
                relu2=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(width, 2 * width, 3),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(2 * width, 2 * width, 3),
                relu4=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(2 * width * rows * columns, hidden),
                relu5=nn.ReLU(),
                dropout=nn.Dropout(dropout),
                fc2=nn.Linear(hidden, hidden),
                relu6=nn.ReLU(),
                fc3=nn.Linear(hidden, classes),
            )
        )

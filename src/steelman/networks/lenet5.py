"""LeNet-5 as L2L-DA has it."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.shapes import check_shape


@final
class LeNet5(nn.Sequential):
    """Three 5x5 convolutions with ReLU, max-pooling between them, two fully connected layers.

    Conv5-6 (padding 2), ReLU, MaxPool2, Conv5-16, ReLU, MaxPool2, Conv5-120, ReLU, FC84, ReLU, FC.

    shape    of one image, default (1, 28, 28); at least 28x28 pixels
    classes  default 10: 61,706 parameters on MNIST

    The authors' code ends in a log-softmax, ours in logits: every loss is the same, since a second log-softmax changes
    nothing.
    Layers: conv1, relu1, pool1, conv2, relu2, pool2, conv3, relu3, flatten, fc1, relu4, fc2.
    Reference: Yunseok Jang, Tianchen Zhao, Seunghoon Hong and Honglak Lee, "Adversarial defense via learning to
    generate diverse attacks", ICCV 2019, section 5.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> None:
        channels, height, width = check_shape("LeNet5", shape, 28)
        rows, columns = ((side // 2 - 4) // 2 - 4 for side in (height, width))
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, 6, 5, padding=2),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(6, 16, 5),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                conv3=nn.Conv2d(16, 120, 5),
                relu3=nn.ReLU(),
                flatten=nn.Flatten(),
                fc1=nn.Linear(120 * rows * columns, 84),
                relu4=nn.ReLU(),
                fc2=nn.Linear(84, classes),
            )
        )

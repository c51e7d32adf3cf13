"""LeNet as Caffe and MatConvNet have it."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.shapes import check_shape


@final
class LeNet(nn.Sequential):
    """Two convolutions with max-pooling, two fully connected layers.

    Conv5-20, MaxPool2, Conv5-50, MaxPool2, FC500, ReLU, FC; no padding. There is NO ReLU after the convolutions: max-
    pooling is their only non-linearity, in the paper's table and in its authors' code.

    shape    of one image, default (1, 28, 28); at least 16x16 pixels
    classes  default 10: 431,080 parameters on MNIST

    Layers: conv1, pool1, conv2, pool2, flatten, fc1, relu1, fc2.
    Reference: Yan, Guo and Zhang, "Deep Defense: training DNNs with improved adversarial robustness", NeurIPS 2018,
    section 4; after MatConvNet's MNIST example.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> None:
        channels, height, width = check_shape("LeNet", shape, 16)
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, 20, 5),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(20, 50, 5),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(50 * rows * columns, 500),
                relu1=nn.ReLU(),
                fc2=nn.Linear(500, classes),
            )
        )

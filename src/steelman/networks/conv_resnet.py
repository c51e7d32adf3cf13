"""The residual network of Efficient Defenses."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.residual import Residual
from steelman.networks.shapes import check_shape


@final
class ConvResNet(nn.Sequential):
    """Two strided convolutions, one bottleneck with a shortcut around it, max-pooling, one fully connected layer.

    Conv8-64 (stride 2, padding 3), ReLU, Conv6-128 (stride 2), ReLU, [Conv1-64, ReLU, Conv1-64, ReLU, Conv1-128] + what
    came in, ReLU, MaxPool3, FC.

    shape    of one image, default (1, 28, 28); at least 20x20 pixels
    classes  default 10: 321,226 parameters on MNIST
    middle   kernel of the bottleneck's middle convolution: 1 (paper, default) or 3 (its authors' code; 353,994
             parameters)

    The paper prints no strides and padding; they are those of its `CNN`. It is where black-box attacks are crafted.
    Layers: conv1, relu1, conv2, relu2, block (body.conv1, body.relu1 .. body.conv3), relu3, pool1, flatten, fc1.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, section 5.

    Raises:
        ValueError: middle is neither 1 nor 3.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10, middle: int = 1) -> None:
        channels, height, width = check_shape("ConvResNet", shape, 20)
        if middle not in (1, 3):
            raise ValueError(f"middle is a kernel of 1 (paper) or 3 (code); got {middle}")
        rows, columns = ((side // 2 - 4) // 2 // 3 for side in (height, width))
        body = OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(128, 64, 1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(64, 64, middle, padding=middle // 2),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(64, 128, 1),
        )
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, 64, 8, stride=2, padding=3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(64, 128, 6, stride=2),
                relu2=nn.ReLU(),
                block=Residual(nn.Sequential(body)),
                relu3=nn.ReLU(),
                pool1=nn.MaxPool2d(3),
                flatten=nn.Flatten(),
                fc1=nn.Linear(128 * rows * columns, classes),
            )
        )

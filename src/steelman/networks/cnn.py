"""The convolutional network of Efficient Defenses, which is CleverHans' tutorial network."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.shapes import check_shape


@final
class CNN(nn.Sequential):
    """Three convolutions, 8-64 and 6-128 with stride 2 and 5-128, each with ReLU; one fully connected layer.

    Conv8-64 (stride 2, padding 3), ReLU, Conv6-128 (stride 2), ReLU, Conv5-128, ReLU, FC. 28x28 pixels end as one,
    32x32 as 2x2.

    shape    of one image, default (1, 28, 28); at least 28x28 pixels
    classes  default 10: 710,218 parameters on MNIST
    variant  "paper" (default), or "code": what its authors' code has for CIFAR-10, which the paper does not say.
             Conv3-32 (padding 1), ReLU, MaxPool2, Dropout .5, Conv3-64, ReLU, MaxPool2, Dropout .5, FC500, ReLU,
             Dropout .5, FC; at least 8x8 pixels, 1,592,902 parameters on CIFAR-10

    The paper prints no strides and padding; they are those of its authors' code and of CleverHans ("same" padding of an
    even side is 3 here).
    Layers: conv1, relu1, conv2, relu2, conv3, relu3, flatten, fc1; of the code, conv1, relu1, pool1, dropout1, conv2,
    relu2, pool2, dropout2, flatten, fc1, relu3, dropout3, fc2.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, section 5.

    Raises:
        ValueError: images that are too small, or an unknown variant.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10, variant: str = "paper") -> None:
        if variant not in ("paper", "code"):
            raise ValueError(f'variant is "paper" or "code"; got {variant!r}')
        super().__init__(_paper(shape, classes) if variant == "paper" else _code(shape, classes))


def _paper(shape: Sequence[int], classes: int) -> OrderedDict[str, nn.Module]:
    channels, height, width = check_shape("CNN", shape, 28)
    rows, columns = ((side // 2 - 6) // 2 - 3 for side in (height, width))
    return OrderedDict(
        conv1=nn.Conv2d(channels, 64, 8, stride=2, padding=3),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(64, 128, 6, stride=2),
        relu2=nn.ReLU(),
        conv3=nn.Conv2d(128, 128, 5),
        relu3=nn.ReLU(),
        flatten=nn.Flatten(),
        fc1=nn.Linear(128 * rows * columns, classes),
    )


def _code(shape: Sequence[int], classes: int) -> OrderedDict[str, nn.Module]:
    channels, height, width = check_shape("CNN", shape, 8)
    rows, columns = ((side // 2 - 2) // 2 for side in (height, width))
    return OrderedDict(
        conv1=nn.Conv2d(channels, 32, 3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        dropout1=nn.Dropout(0.5),
        conv2=nn.Conv2d(32, 64, 3),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        dropout2=nn.Dropout(0.5),
        flatten=nn.Flatten(),
        fc1=nn.Linear(64 * rows * columns, 500),
        relu3=nn.ReLU(),
        dropout3=nn.Dropout(0.5),
        fc2=nn.Linear(500, classes),
    )

"""The two networks of Efficient Defenses; the first is CleverHans' tutorial network."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.layers import check_shape, numbered
from steelman.networks.residual import Residual


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
    return numbered(
        *_beginning(channels),
        *(nn.Conv2d(128, 128, 5), nn.ReLU(), nn.Flatten(), nn.Linear(128 * rows * columns, classes)),
    )


def _code(shape: Sequence[int], classes: int) -> OrderedDict[str, nn.Module]:
    channels, height, width = check_shape("CNN", shape, 8)
    rows, columns = ((side // 2 - 2) // 2 for side in (height, width))
    return numbered(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(64 * rows * columns, 500), nn.ReLU(), nn.Dropout(0.5), nn.Linear(500, classes)),
    )


@final
class ConvResNet(nn.Sequential):
    """Two strided convolutions, one bottleneck with a shortcut around it, max-pooling, one fully connected layer.

    Conv8-64 (stride 2, padding 3), ReLU, Conv6-128 (stride 2), ReLU, [Conv1-64, ReLU, Conv1-64, ReLU, Conv1-128] + the
    block's input, ReLU, MaxPool3, FC.

    shape    of one image, default (1, 28, 28); at least 20x20 pixels
    classes  default 10: 321,226 parameters on MNIST
    middle   kernel of the bottleneck's middle convolution: 1 (paper, default) or 3 (its authors' code; 353,994
             parameters)

    The paper prints no strides and padding; they are those of its `CNN`. It is the surrogate of the paper's black-box
    attacks.
    Layers: conv1, relu1, conv2, relu2, block (body.conv1, body.relu1 .. body.conv3), relu3, pool1, flatten, fc1.
    Reference: as `CNN`.

    Raises:
        ValueError: middle is neither 1 nor 3.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10, middle: int = 1) -> None:
        channels, height, width = check_shape("ConvResNet", shape, 20)
        if middle not in (1, 3):
            raise ValueError(f"middle is a kernel of 1 (paper) or 3 (code); got {middle}")
        rows, columns = ((side // 2 - 4) // 2 // 3 for side in (height, width))
        body = numbered(
            *(nn.Conv2d(128, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, middle, padding=middle // 2), nn.ReLU()),
            nn.Conv2d(64, 128, 1),
        )
        layers = OrderedDict(
            **numbered(*_beginning(channels)),
            block=Residual(nn.Sequential(body)),
            relu3=nn.ReLU(),
            pool1=nn.MaxPool2d(3),
            flatten=nn.Flatten(),
            fc1=nn.Linear(128 * rows * columns, classes),
        )
        super().__init__(layers)


def _beginning(channels: int) -> tuple[nn.Module, ...]:
    first = nn.Conv2d(channels, 64, 8, stride=2, padding=3)
    return first, nn.ReLU(), nn.Conv2d(64, 128, 6, stride=2), nn.ReLU()

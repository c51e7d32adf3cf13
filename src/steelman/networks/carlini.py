"""The network that Carlini and Wagner attack on MNIST and CIFAR-10, and the form of it that TRADES and YOPO train."""

from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.layers import Rescale, check_shape, numbered


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
        channels, units = _sizes("CarliniNet", shape, width)
        convolutions = _convolutions(channels, width)
        connected = [nn.Linear(*sizes) for sizes in ((units, hidden), (hidden, hidden), (hidden, classes))]
        super().__init__(numbered(Rescale(shift=0.5), *_in_order(convolutions, connected, dropout)))


@final
class SmallCNN(nn.Sequential):
    """`CarliniNet` on pixels as they are, with He's weights in the convolutions and a last layer of zeros (both code).

    Conv3-32, ReLU, Conv3-32, ReLU, MaxPool2, Conv3-64, ReLU, Conv3-64, ReLU, MaxPool2, FC200, ReLU, Dropout, FC200,
    ReLU, FC; no padding.

    shape    of one image, default (1, 28, 28); at least 16x16 pixels
    classes  default 10: 312,202 parameters on MNIST
    dropout  after the first fully connected layer, default .5 (code)

    Layers: conv1 .. conv4, fc1 .. fc3, relu1 .. relu6, pool1, pool2, flatten, dropout. YOPO's first layer is conv1 and
    relu1.
    Reference: Hongyang Zhang, Yaodong Yu, Jiantao Jiao, Eric P. Xing, Laurent El Ghaoui and Michael I. Jordan,
    "Theoretically principled trade-off between robustness and accuracy", ICML 2019, section 5; Dinghuai Zhang, Tianyuan
    Zhang, Yiping Lu, Zhanxing Zhu and Bin Dong, "You only propagate once: accelerating adversarial training via maximal
    principle", NeurIPS 2019, section 4.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), classes: int = 10, dropout: float = 0.5) -> None:
        channels, units = _sizes("SmallCNN", shape, 32)
        convolutions, last = _convolutions(channels, 32), nn.Linear(200, classes)
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        connected = [nn.Linear(units, 200), nn.Linear(200, 200), last]
        super().__init__(numbered(*_in_order(convolutions, connected, dropout)))


def _sizes(network: str, shape: Sequence[int], width: int) -> tuple[int, int]:
    """Channels of the images, and numbers that the convolutions leave of one."""
    channels, height, length = check_shape(network, shape, 16)
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, length))
    return channels, 2 * width * rows * columns


def _convolutions(channels: int, width: int) -> list[nn.Conv2d]:
    sizes = ((channels, width), (width, width), (width, 2 * width), (2 * width, 2 * width))
    return [nn.Conv2d(fan_in, fan_out, 3) for fan_in, fan_out in sizes]


def _in_order(conv: list[nn.Conv2d], fc: list[nn.Linear], dropout: float) -> tuple[nn.Module, ...]:
    return (
        *(conv[0], nn.ReLU(), conv[1], nn.ReLU(), nn.MaxPool2d(2)),
        *(conv[2], nn.ReLU(), conv[3], nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), fc[0], nn.ReLU(), nn.Dropout(dropout), fc[1], nn.ReLU(), fc[2]),
    )

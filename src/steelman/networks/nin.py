"""Network in network."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.layers import check_shape, numbered


@final
class NIN(nn.Sequential):
    """Network in network: three blocks of one wide and two 1x1 convolutions, then the average over the map.

    Conv5-192, 1-160, 1-96, MaxPool2, Dropout, Conv5-192, 1-192, 1-192, AvgPool2, Dropout, Conv3-192, 1-192, 1-classes,
    average; a ReLU after every convolution but the last.

    shape    of one image, default (3, 32, 32); at least 4x4 pixels
    classes  default 10: 966,986 parameters on CIFAR-10
    dropout  probability after both poolings, default .5

    Paper and code differ: the paper's table has no dropout, its authors' code has .5; `dropout=0` is the table.
    Layers: block1 .. block3, with conv1, relu1, conv2, relu2, conv3 in each; relu1, relu2, pool1 .. pool3, dropout1,
    dropout2, flatten.
    Reference: Lin, Chen and Yan, "Network in network", ICLR 2014; in the form of Yan, Guo and Zhang, "Deep Defense:
    training DNNs with improved adversarial robustness", NeurIPS 2018, section 4.
    """

    def __init__(self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10, dropout: float = 0.5) -> None:
        channels, _, _ = check_shape("NIN", shape, 4)
        layers = OrderedDict(
            block1=_block(channels, 5, 192, 160, 96),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            dropout1=nn.Dropout(dropout),
            block2=_block(96, 5, 192, 192, 192),
            relu2=nn.ReLU(),
            pool2=nn.AvgPool2d(2),
            dropout2=nn.Dropout(dropout),
            block3=_block(192, 3, 192, 192, classes),
            pool3=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
        )
        super().__init__(layers)


def _block(channels: int, kernel: int, first: int, second: int, third: int) -> nn.Sequential:
    convolutions = [nn.Conv2d(channels, first, kernel, padding=kernel // 2), nn.Conv2d(first, second, 1)]
    return nn.Sequential(numbered(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), nn.Conv2d(second, third, 1)))

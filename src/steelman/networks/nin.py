"""Network in network."""

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from steelman.networks.shapes import check_shape


@final
class NIN(nn.Module):
    """Network in network: three blocks of one wide and two 1x1 convolutions, then the average over the map.

    Conv5-192, 1-160, 1-96, MaxPool2, Dropout, Conv5-192, 1-192, 1-192, AvgPool2, Dropout, Conv3-192, 1-192, 1-classes,
    average; a ReLU after every convolution but the last.

    shape    of one image, default (3, 32, 32); at least 4x4 pixels
    classes  default 10: 966,986 parameters on CIFAR-10
    dropout  probability after both poolings, default .5

    Paper and code differ: the paper's table has no dropout, its authors' code has .5; `dropout=0` is the table.
    Layers: block1, block2, block3, with the convolutions conv1, conv2, conv3 in each.
    Reference: Lin, Chen and Yan, "Network in network", ICLR 2014; in the form of Yan, Guo and Zhang, "Deep Defense:
    training DNNs with improved adversarial robustness", NeurIPS 2018, section 4.
    """

    def __init__(self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__()
        channels, _, _ = check_shape("NIN", shape, 4)
        self.block1 = _block(channels, 5, 192, 160, 96)
        self.block2 = _block(96, 5, 192, 192, 192)
        self.block3 = _block(192, 3, 192, 192, classes)
        self.max_pool = nn.MaxPool2d(2)
        self.average_pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.max_pool(self.block1(x).relu()))
        x = self.dropout(self.average_pool(self.block2(x).relu()))
        return self.block3(x).mean((2, 3))


def _block(channels: int, kernel: int, first: int, second: int, third: int) -> nn.Sequential:
    block = nn.Sequential()
    block.add_module("conv1", nn.Conv2d(channels, first, kernel, padding=kernel // 2))
    block.add_module("relu1", nn.ReLU())
    block.add_module("conv2", nn.Conv2d(first, second, 1))
    block.add_module("relu2", nn.ReLU())
    block.add_module("conv3", nn.Conv2d(second, third, 1))
    return block

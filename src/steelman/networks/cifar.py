"""Networks that papers train on CIFAR-10, without shortcuts."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from torch import nn

from steelman.networks.layers import check_shape, gained, numbered


@final
class ConvNet(nn.Sequential):
    """Five convolutions: 5-32, 5-32, 5-64 (padding 2, each followed by pooling), 4-64, 1-classes.

    Conv5-32, MaxPool2, ReLU (in this order), Conv5-32, ReLU, AvgPool2, Conv5-64, ReLU, AvgPool2, Conv4-64, ReLU,
    Conv1-classes. conv4 is as large as its map, 4x4 for 32x32 pixels.

    shape    of one image, default (3, 32, 32); at least 8x8 pixels
    classes  default 10: 145,578 parameters on CIFAR-10
    gain     what the input is multiplied by, default 1, as in `MLP`; 255 gives the scale of the authors' images

    MatConvNet's example pools 3x3 pixels in steps of 2; the paper's table and its authors' code pool 2x2.
    Layers: rescale (where gain is not 1), conv1 .. conv5, pool1 .. pool3, relu1 .. relu4, flatten.
    Reference: Yan, Guo and Zhang, "Deep Defense: training DNNs with improved adversarial robustness", NeurIPS 2018,
    section 4; after MatConvNet's CIFAR-10 example.
    """

    def __init__(self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10, gain: float = 1.0) -> None:
        channels, height, width = check_shape("ConvNet", shape, 8)
        layers = numbered(
            *gained(gain),
            *(nn.Conv2d(channels, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(64, 64, (height // 8, width // 8)), nn.ReLU(), nn.Conv2d(64, classes, 1), nn.Flatten()),
        )
        super().__init__(layers)


@final
class NIN(nn.Sequential):
    """Network in network: three blocks of one wide and two 1x1 convolutions, then the average over the map.

    Conv5-192, 1-160, 1-96, MaxPool2, Dropout, Conv5-192, 1-192, 1-192, AvgPool2, Dropout, Conv3-192, 1-192, 1-classes,
    average; a ReLU after every convolution but the last.

    shape    of one image, default (3, 32, 32); at least 4x4 pixels
    classes  default 10: 966,986 parameters on CIFAR-10
    dropout  probability after both poolings, default .5
    gain     what the input is multiplied by, default 1, as in `MLP`; 255 gives the scale of the authors' images

    Paper and code differ: the paper's table has no dropout, its authors' code has .5; `dropout=0` is the table.
    Weights begin as He's normal ones, of the last layer a tenth of those, and biases as 0 (MatConvNet's example, which
    pools 3x3 pixels in steps of 2, where table and code pool 2x2).
    Layers: rescale (where gain is not 1), block1 .. block3, with conv1, relu1, conv2, relu2, conv3 in each; relu1,
    relu2, pool1 .. pool3, dropout1, dropout2, flatten.
    Reference: Lin, Chen and Yan, "Network in network", ICLR 2014; in the form of Yan, Guo and Zhang, "Deep Defense:
    training DNNs with improved adversarial robustness", NeurIPS 2018, section 4.
    """

    def __init__(
        self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10, dropout: float = 0.5, gain: float = 1.0
    ) -> None:
        channels, _, _ = check_shape("NIN", shape, 4)
        layers = OrderedDict[str, nn.Module](
            numbered(*gained(gain)),
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
        convolutions = [each for each in self.modules() if isinstance(each, nn.Conv2d)]
        for convolution in convolutions:
            _he(convolution)
        with torch.no_grad():
            convolutions[-1].weight *= 0.1


def _he(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)


def _block(channels: int, kernel: int, first: int, second: int, third: int) -> nn.Sequential:
    convolutions = [nn.Conv2d(channels, first, kernel, padding=kernel // 2), nn.Conv2d(first, second, 1)]
    return nn.Sequential(numbered(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), nn.Conv2d(second, third, 1)))


@final
class ConvPoolCNN(nn.Sequential):
    """Three pairs of 3x3 convolutions, each followed by average-pooling; a convolution to the classes, and its mean.

    Conv3-64, Conv3-128, AvgPool2, Conv3-128, Conv3-256, AvgPool2, Conv3-256, Conv3-512, AvgPool2, Conv3-classes, the
    average over the map. Every convolution is padded and followed by LeakyReLU .2, also the last one (code). Weights
    begin as He's normal ones, biases as 0 (code).

    shape    of one image, default (3, 32, 32); at least 8x8 pixels
    classes  default 10: 2,334,730 parameters on CIFAR-10
    width    channels of the first convolution, of which all others are multiples; default 64

    Layers: conv1 .. conv7, relu1 .. relu7, pool1 .. pool3, mean, flatten.
    Reference: Hyeungill Lee, Sungyeob Han and Jungwoo Lee, "Adversarial training with perturbation generator networks",
    OpenReview 2019, section 4.
    """

    def __init__(self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10, width: int = 64) -> None:
        channels, _, _ = check_shape("ConvPoolCNN", shape, 8)
        if width < 1:
            raise ValueError(f"width is a number of channels, at least 1; got {width}")
        sizes = (channels, *(width * factor for factor in (1, 2, 2, 4, 4, 8)), classes)
        layers: list[nn.Module] = []
        for place, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            convolution = nn.Conv2d(fan_in, fan_out, 3, padding=1)
            _he(convolution)
            layers += [convolution, nn.LeakyReLU(0.2), *[nn.AvgPool2d(2)] * (place % 2 == 0)]
        super().__init__(OrderedDict(**numbered(*layers), mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))

"""He's residual network for CIFAR-10."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import nn

from steelman.networks.layers import check_shape, numbered
from steelman.networks.residual import PadChannels, Residual, conv3x3, head, stages


@final
class ResNet20(nn.Sequential):
    """Residual network of 20 layers: three stages of three blocks with 16, 32 and 64 channels; global average.

    Conv3-16, BatchNorm, ReLU; nine blocks ReLU([Conv3, BatchNorm, ReLU, Conv3, BatchNorm] + shortcut), of which the
    fourth and the seventh have stride 2; the average over the map; FC. Shortcuts have no weights (option A): they take
    every other pixel, and zeros fill the new channels, half of them on either side.

    shape    of one image, default (3, 32, 32); at least 4x4 pixels
    classes  default 10: 269,722 parameters on CIFAR-10

    Weights are He's, as in the code that L2L-DA uses, which normalises images by ImageNet's statistics: put
    `Normalise(mean=(.485, .456, .406), std=(.229, .224, .225))` before it.
    Layers: conv1, bn1, relu1, stage1 .. stage3, pool, flatten, fc; in each stage block1 .. block3, with
    residual.body and relu.
    Reference: Kaiming He, Xiangyu Zhang, Shaoqing Ren and Jian Sun, "Deep residual learning for image recognition",
    CVPR 2016, section 4.2.
    """

    def __init__(self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10) -> None:
        channels, _, _ = check_shape("ResNet20", shape, 4)
        first = numbered(conv3x3(channels, 16), nn.BatchNorm2d(16), nn.ReLU())
        super().__init__(OrderedDict(**first, **stages(_block, (16, 16, 32, 64), 3), **head(64, classes)))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)


def _block(fan_in: int, fan_out: int, stride: int, first: bool) -> nn.Module:
    body = numbered(
        *(conv3x3(fan_in, fan_out, stride), nn.BatchNorm2d(fan_out), nn.ReLU()),
        *(conv3x3(fan_out, fan_out), nn.BatchNorm2d(fan_out)),
    )
    every_other = nn.Sequential(nn.MaxPool2d(1, stride), PadChannels(fan_out - fan_in)) if stride > 1 else None
    return nn.Sequential(OrderedDict(residual=Residual(nn.Sequential(body), every_other), relu=nn.ReLU()))

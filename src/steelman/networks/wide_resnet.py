"""The wide residual networks of adversarial training on CIFAR-10."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import final

from torch import nn

from steelman.networks.layers import check_shape
from steelman.networks.residual import PadChannels, conv3x3, head, preactivated, projected, relu, stages


@final
class WideResNet(nn.Sequential):
    """Wide residual network, pre-activated: three stages of (depth - 4)/6 blocks, 16, 32 and 64 times width channels.

    Conv3-16; blocks [BatchNorm, ReLU, Conv3, BatchNorm, ReLU, Conv3] + shortcut; BatchNorm, ReLU, the average over the
    map, FC. The second and third stage begin with stride 2.

    shape     of one image, default (3, 32, 32); at least 4x4 pixels
    classes   default 10: 36,479,194 parameters on CIFAR-10
    depth     28 (Madry, BAT, MMA; default), 34 (TRADES), or another 6 n + 4
    width     10 (Madry, BAT, TRADES; default), 4 (MMA)
    slope     of the ReLUs below 0, default 0 (MMA, TRADES); Madry and BAT have leaky ones of .1
    shortcut  where channels change. "convolution" (default; Zagoruyko, MMA, TRADES): a 1x1 convolution, from after the
              block's first ReLU. "pad" (Madry, BAT): zeros for the new channels, after average-pooling where there is a
              stride; from after the ReLU in the first block only

    Madry's network is `slope=.1, shortcut="pad"` after `StandardiseImage`: 36,220,634 parameters. His TensorFlow code
    pads a convolution of stride 2 below and to the right only, and adds .001 to variances; ours pads all round, and
    adds 1e-5. Convolutions start at N(0, 2 / fan out), the last biases at 0 (all codes).
    Layers: conv1, stage1 .. stage3 (block1, block2, ...), bn, relu, pool, flatten, fc.
    Reference: Sergey Zagoruyko and Nikos Komodakis, "Wide residual networks", BMVC 2016, section 2.

    Raises:
        ValueError: depth is not 6 n + 4 with n >= 1; width below 1; an unknown shortcut.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (3, 32, 32),
        classes: int = 10,
        depth: int = 28,
        width: int = 10,
        slope: float = 0.0,
        shortcut: str = "convolution",
    ) -> None:
        channels, _, _ = check_shape("WideResNet", shape, 4)
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1 or width < 1:
            raise ValueError(f"WideResNet needs a depth of 10, 16, 22, 28 ... and width >= 1; got {depth} and {width}")
        if shortcut not in ("convolution", "pad"):
            raise ValueError(f'shortcut is "convolution" or "pad"; got {shortcut!r}')
        sizes = (16, 16 * width, 32 * width, 64 * width)
        block = partial(projected, slope=slope) if shortcut == "convolution" else partial(_padded, slope=slope)
        layers = OrderedDict[str, nn.Module](conv1=conv3x3(channels, 16), **stages(block, sizes, blocks))
        layers |= OrderedDict(bn=nn.BatchNorm2d(sizes[-1]), relu=relu(slope))
        super().__init__(layers | head(sizes[-1], classes))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            elif isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)


def _padded(fan_in: int, fan_out: int, stride: int, first: bool, slope: float) -> nn.Module:
    """A block with zeros for the new channels of its shortcut; that of the network's first starts after the ReLU."""
    across = None
    if fan_in != fan_out or stride != 1:
        across = nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), PadChannels(fan_out - fan_in))
    return preactivated(fan_in, fan_out, stride, across, shared=first, slope=slope)

"""Residual networks: He's for CIFAR-10, the pre-activation one of YOPO, and the wide ones of adversarial training."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import final

from torch import Tensor, nn
from torch.nn.functional import pad

from steelman.networks.layers import check_shape, numbered


@final
class Residual(nn.Module):
    """body(x) + shortcut(x); without a shortcut, body(x) + x."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


@final
class PadChannels(nn.Module):
    """Adds `more` channels of zeros, half of them before the others."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))

    def extra_repr(self) -> str:
        return f"more={self.more}"


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
        first = numbered(_conv3x3(channels, 16), nn.BatchNorm2d(16), nn.ReLU())
        super().__init__(OrderedDict(**first, **_stages(_option_a, (16, 16, 32, 64), 3), **_head(64, classes)))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)


def _option_a(fan_in: int, fan_out: int, stride: int, first: bool) -> nn.Module:
    body = numbered(
        *(_conv3x3(fan_in, fan_out, stride), nn.BatchNorm2d(fan_out), nn.ReLU()),
        *(_conv3x3(fan_out, fan_out), nn.BatchNorm2d(fan_out)),
    )
    every_other = nn.Sequential(nn.MaxPool2d(1, stride), PadChannels(fan_out - fan_in)) if stride > 1 else None
    return nn.Sequential(OrderedDict(residual=Residual(nn.Sequential(body), every_other), relu=nn.ReLU()))


@final
class PreActResNet18(nn.Sequential):
    """Pre-activation residual network of 18 layers: four stages of two blocks with 64, 128, 256 and 512 channels.

    Conv3-64; eight blocks [BatchNorm, ReLU, Conv3, BatchNorm, ReLU, Conv3] + x, or, where stride or channels change,
    y = ReLU(BatchNorm(x)); [Conv3, BatchNorm, ReLU, Conv3](y) + Conv1(y); the average over the map; FC. There is NO
    batch normalisation and ReLU between the last block and the average, as in the code of YOPO (He's paper has them).

    shape    of one image, default (3, 32, 32); at least 8x8 pixels
    classes  default 10: 11,171,146 parameters on CIFAR-10

    Layers: conv1, stage1 .. stage4 (block1, block2), pool, flatten, fc. YOPO's first layer is conv1.
    Reference: Kaiming He, Xiangyu Zhang, Shaoqing Ren and Jian Sun, "Identity mappings in deep residual networks", ECCV
    2016; as in Dinghuai Zhang, Tianyuan Zhang, Yiping Lu, Zhanxing Zhu and Bin Dong, "You only propagate once:
    accelerating adversarial training via maximal principle", NeurIPS 2019, section 4.
    """

    def __init__(self, *, shape: Sequence[int] = (3, 32, 32), classes: int = 10) -> None:
        channels, _, _ = check_shape("PreActResNet18", shape, 8)
        first = _conv3x3(channels, 64)
        super().__init__(
            OrderedDict(conv1=first, **_stages(_projected, (64, 64, 128, 256, 512), 2), **_head(512, classes))
        )


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
        block = partial(_projected, slope=slope) if shortcut == "convolution" else partial(_padded, slope=slope)
        layers = OrderedDict[str, nn.Module](conv1=_conv3x3(channels, 16), **_stages(block, sizes, blocks))
        layers |= OrderedDict(bn=nn.BatchNorm2d(sizes[-1]), relu=_relu(slope))
        super().__init__(layers | _head(sizes[-1], classes))
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
    return _preactivated(fan_in, fan_out, stride, across, shared=first, slope=slope)


def _conv3x3(fan_in: int, fan_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (but for its stride), without bias: batch normalisation follows."""
    return nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)


def _stages(
    block: Callable[[int, int, int, bool], nn.Module], sizes: Sequence[int], blocks: int
) -> OrderedDict[str, nn.Module]:
    """stage1, stage2, ..., each a sequence of block1, block2, ...; every stage but the first begins with stride 2.

    block   makes one, of channels in, channels out, stride, and whether it is the network's first
    sizes   channels before the first stage and after each
    blocks  in each stage
    """
    made = OrderedDict[str, nn.Module]()
    for place, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        first = block(fan_in, fan_out, 1 if place == 1 else 2, place == 1)
        others = [block(fan_out, fan_out, 1, False) for _ in range(blocks - 1)]
        made[f"stage{place}"] = nn.Sequential(
            OrderedDict((f"block{n}", each) for n, each in enumerate([first, *others], 1))
        )
    return made


def _head(width: int, classes: int) -> OrderedDict[str, nn.Module]:
    """pool, flatten, fc: the average over the map, and one fully connected layer."""
    return OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(width, classes))


def _preactivated(
    fan_in: int, fan_out: int, stride: int, shortcut: nn.Module | None = None, *, shared: bool, slope: float = 0.0
) -> nn.Module:
    """A block of two 3x3 convolutions, batch normalisation and ReLU before each.

    shared  the shortcut starts after the first ReLU, not before the batch normalisation
    slope   of the ReLU below 0
    """
    start = OrderedDict[str, nn.Module](bn1=nn.BatchNorm2d(fan_in), relu1=_relu(slope))
    body = OrderedDict[str, nn.Module](
        conv1=_conv3x3(fan_in, fan_out, stride),
        bn2=nn.BatchNorm2d(fan_out),
        relu2=_relu(slope),
        conv2=_conv3x3(fan_out, fan_out),
    )
    if not shared:
        return Residual(nn.Sequential(start | body), shortcut)
    return nn.Sequential(start | OrderedDict(residual=Residual(nn.Sequential(body), shortcut)))


def _projected(fan_in: int, fan_out: int, stride: int, first: bool, slope: float = 0.0) -> nn.Module:
    """A `_preactivated` block, with a 1x1 convolution for a shortcut, from after the first ReLU, where sizes change."""
    if fan_in == fan_out and stride == 1:
        return _preactivated(fan_in, fan_out, 1, shared=False, slope=slope)
    across = nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False)
    return _preactivated(fan_in, fan_out, stride, across, shared=True, slope=slope)


def _relu(slope: float) -> nn.Module:
    """ReLU, or with a slope below 0 that is not 0, leaky ReLU."""
    return nn.LeakyReLU(slope) if slope else nn.ReLU()

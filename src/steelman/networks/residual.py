"""What residual networks are made of."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import final

from torch import Tensor, nn
from torch.nn.functional import pad


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


def conv3x3(fan_in: int, fan_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (but for its stride), without bias: batch normalisation follows."""
    return nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)


def stages(
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


def head(width: int, classes: int) -> OrderedDict[str, nn.Module]:
    """pool, flatten, fc: the average over the map, and one fully connected layer."""
    return OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(width, classes))


def preactivated(
    fan_in: int, fan_out: int, stride: int, shortcut: nn.Module | None = None, *, shared: bool, slope: float = 0.0
) -> nn.Module:
    """A block of two 3x3 convolutions, batch normalisation and ReLU before each.

    shared  the shortcut starts after the first ReLU, not before the batch normalisation
    slope   of the ReLU below 0
    """
    start = OrderedDict[str, nn.Module](bn1=nn.BatchNorm2d(fan_in), relu1=relu(slope))
    body = OrderedDict[str, nn.Module](
        conv1=conv3x3(fan_in, fan_out, stride),
        bn2=nn.BatchNorm2d(fan_out),
        relu2=relu(slope),
        conv2=conv3x3(fan_out, fan_out),
    )
    if not shared:
        return Residual(nn.Sequential(start | body), shortcut)
    return nn.Sequential(start | OrderedDict(residual=Residual(nn.Sequential(body), shortcut)))


def projected(fan_in: int, fan_out: int, stride: int, first: bool, slope: float = 0.0) -> nn.Module:
    """A `preactivated` block, with a 1x1 convolution for a shortcut, from after the first ReLU, where sizes change."""
    if fan_in == fan_out and stride == 1:
        return preactivated(fan_in, fan_out, 1, shared=False, slope=slope)
    across = nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False)
    return preactivated(fan_in, fan_out, stride, across, shared=True, slope=slope)


def relu(slope: float) -> nn.Module:
    """ReLU, or with a slope below 0 that is not 0, leaky ReLU."""
    return nn.LeakyReLU(slope) if slope else nn.ReLU()

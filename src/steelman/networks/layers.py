"""What networks are made of: layers with names, a shift and scale, and a check of the image's shape."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

from torch import Tensor, nn


@final
class Rescale(nn.Module):
    """scale * (x - shift): pixels to the range that a paper's network was made for. It learns and stores nothing.

    shift  default 0; .5 takes [0, 1] to [-.5, .5]
    scale  default 1
    """

    def __init__(self, *, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x - self.shift)

    def extra_repr(self) -> str:
        return f"shift={self.shift}, scale={self.scale}"


def gained(gain: float) -> list[nn.Module]:
    """A network's first layer where its input is multiplied by a gain; no layer where that is 1."""
    return [] if gain == 1 else [Rescale(scale=gain)]


_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_NORMS = {"bn": nn.BatchNorm2d, "gn": nn.GroupNorm}
_ALWAYS = {"conv": nn.Conv2d, "fc": nn.Linear, "relu": (nn.ReLU, nn.LeakyReLU), **_NORMS, "pool": _POOLS}
_IF_SEVERAL = {"dropout": nn.Dropout, "flatten": nn.Flatten, "rescale": Rescale}
"""Which layers have a number always, and which only where there are several."""


def numbered(*layers: nn.Module) -> OrderedDict[str, nn.Module]:
    """Layers under the names that cards list: conv1, relu1, conv2, relu2, flatten, fc1, ..."""
    kinds = [
        next(name for name, kind in {**_ALWAYS, **_IF_SEVERAL}.items() if isinstance(each, kind)) for each in layers
    ]
    bare = {kind for kind in _IF_SEVERAL if kinds.count(kind) == 1}
    names = [kind if kind in bare else f"{kind}{kinds[: place + 1].count(kind)}" for place, kind in enumerate(kinds)]
    return OrderedDict(zip(names, layers, strict=True))


def check_shape(network: str, shape: Sequence[int], least: int) -> tuple[int, int, int]:
    """The (channels, height, width) of images that a network can take.

    Raises:
        ValueError: not three positive sizes, or a side below `least` pixels.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{network} needs an image shape (channels, height, width); got {tuple(shape)}")
    channels, height, width = shape
    if min(height, width) < least:
        raise ValueError(
            f"{network} needs images of at least {least}x{least} pixels; got {height}x{width}: "
            "choose a smaller network (MLP takes any size)"
        )
    return channels, height, width

"""The generator of GAP: residual blocks between two halvings and two doublings."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from steelman.adversaries.generators.batchnorm import GlobalBatchNorm
from steelman.adversaries.generators.hourglass import extended, hourglass, initialise, middle
from steelman.networks.layers import check_shape


@final
class ResNetGenerator(nn.Module):
    """An image in, an image in [-1, 1] out, through residual blocks at a quarter of its size.

    An `hourglass` between two conv7 with reflection padding, with `GlobalBatchNorm`. The last convolution alone has a
    bias. Weights start as N(0, .02), as in the authors' code.

    shape   of one image
    width   default 64 (code): 7,828,865 parameters for MNIST
    blocks  default 6 (code)

    Images whose sides are no multiples of 4, or below 8, are extended by their border and cut out again (ours).

    Raises:
        ValueError: no image shape, a width below 1 or blocks below 0.
    """

    def __init__(self, shape: Sequence[int], width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        channels, *_ = check_shape("ResNetGenerator", shape, 1)
        if width < 1 or blocks < 0:
            raise ValueError(f"ResNetGenerator needs width >= 1 and blocks >= 0; got {width} and {blocks}")
        self.shape, self.classes = tuple(shape), None
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 7, padding=3, padding_mode="reflect", bias=False),
            *hourglass(width, blocks, GlobalBatchNorm, padding=1),
            *(nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect"), nn.Tanh()),
        )
        initialise(self)
        # A quarter faster on processors, where channels are few.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor) -> Tensor:
        return middle(self.layers(extended(images, least=8, part=4)), images)

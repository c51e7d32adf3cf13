"""The generator of GAP: residual blocks between two halvings and two doublings."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from steelman.adversaries.generators.batchnorm import GlobalBatchNorm
from steelman.adversaries.generators.extended import extended, middle
from steelman.networks.layers import check_shape
from steelman.networks.residual import Residual


@final
class ResNetGenerator(nn.Module):
    """An image in, an image in [-1, 1] out, through residual blocks at a quarter of its size.

    Conv7, width; conv3 stride 2, 2 width; conv3 stride 2, 4 width; the blocks (`reflecting`); transposed conv3 stride
    2, 2 width; transposed conv3 stride 2, width; conv7, tanh. Both conv7 have reflection padding. `GlobalBatchNorm` and
    ReLU follow each but the last, which alone has a bias. Weights begin as N(0, .02), as in the authors' code.

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
            *_normalised(width),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            *_normalised(2 * width),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1, bias=False),
            *_normalised(4 * width),
            *(reflecting(4 * width) for _ in range(blocks)),
            nn.ConvTranspose2d(4 * width, 2 * width, 3, stride=2, padding=1, output_padding=1, bias=False),
            *_normalised(2 * width),
            nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1, bias=False),
            *_normalised(width),
            nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )
        begin(self)
        # A quarter faster on processors, where channels are few.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor) -> Tensor:
        return middle(self.layers(extended(images, least=8, part=4)), images)


def reflecting(width: int) -> Residual:
    """A residual block of two 3x3 convolutions with reflection padding, batch normalisation after each, ReLU between
    them."""
    return Residual(
        nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", bias=False),
            *_normalised(width),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", bias=False),
            GlobalBatchNorm(width),
        )
    )


def begin(network: nn.Module) -> None:
    """Weights of convolutions as N(0, .02), biases as 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _normalised(width: int) -> tuple[nn.Module, nn.Module]:
    return GlobalBatchNorm(width), nn.ReLU()

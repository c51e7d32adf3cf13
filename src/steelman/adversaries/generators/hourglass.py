"""What image-to-image generators share: two halvings, residual blocks, two doublings, and images of any size."""

import torch.nn.functional as F
from torch import Tensor, nn

from steelman.adversaries.generators.batchnorm import GlobalBatchNorm
from steelman.networks.residual import Residual


def hourglass(width: int, blocks: int, normalisation: type[nn.Module], padding: int) -> list[nn.Module]:
    """Conv3 stride 2, 2 width; conv3 stride 2, 4 width; residual blocks; transposed conv3 stride 2, 2 width; transposed
    conv3 stride 2, width. Normalisation and ReLU follow each but the blocks, and come first."""

    def halved(size: int) -> nn.Module:
        return nn.Conv2d(size, 2 * size, 3, stride=2, padding=padding, bias=False)

    def doubled(size: int) -> nn.Module:
        return nn.ConvTranspose2d(2 * size, size, 3, stride=2, padding=padding, output_padding=padding, bias=False)

    def after(size: int) -> tuple[nn.Module, nn.Module]:
        return normalisation(size), nn.ReLU()

    return [
        *after(width),
        *(halved(width), *after(2 * width)),
        *(halved(2 * width), *after(4 * width)),
        *(reflecting(4 * width) for _ in range(blocks)),
        *(doubled(2 * width), *after(2 * width)),
        *(doubled(width), *after(width)),
    ]


def initialise(network: nn.Module) -> None:
    """Weights of convolutions as N(0, .02), biases as 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def reflecting(width: int) -> Residual:
    """A residual block: conv3, batch normalisation, ReLU, conv3, batch normalisation, with reflection padding."""

    def convolution() -> nn.Module:
        return nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", bias=False)

    return Residual(
        nn.Sequential(convolution(), GlobalBatchNorm(width), nn.ReLU(), convolution(), GlobalBatchNorm(width))
    )


def extended(images: Tensor, least: int, part: int = 1) -> Tensor:
    """Images whose sides are multiples of `part`, at least `least`: their border repeated, on all sides alike."""
    more = [max(least, -(-side // part) * part) - side for side in images.shape[:1:-1]]
    if not any(more):
        return images
    return F.pad(images, [each for side in more for each in (side // 2, side - side // 2)], mode="replicate")


def middle(images: Tensor, like: Tensor) -> Tensor:
    """The part of extended images that is where `like` was."""
    for axis in (2, 3):
        size = like.shape[axis]
        images = images.narrow(axis, (images.shape[axis] - size) // 2, size)
    return images

"""The generator of L2L-DA: a small U-Net that also sees a latent vector and the label."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from steelman.adversaries.generators.batchnorm import GlobalBatchNorm


@final
class UNet(nn.Module):
    """Images in, an image in [-1, 1] out, by two (or three) halvings and as many doublings with skip connections.

    down0: conv3, width, LeakyReLU; down1: conv4 stride 2, width, norm, LeakyReLU; down2: conv4 stride 2, 2 width,
    LeakyReLU; up2: transposed conv4 stride 2, width, norm, ReLU, concatenated with down1; up1: the same, concatenated
    with down0; out: conv3, tanh. The latent vector goes through two fully connected layers with ReLU, and is added as
    channels, equal at every pixel, to the inputs of down0, down1 and down2. No convolution has a bias; the slope of
    LeakyReLU is .2; normalisation is `GlobalBatchNorm` with eps 1e-10 (authors' code), conditional on the label.

    shape    of one image; height and width are multiples of 4 (of 8 when `deep`)
    classes  of the labels; None leaves them out
    width    default 64 (paper): 495,184 parameters for MNIST
    latent   length of the latent vector, default 8; 0 leaves it out
    images   how many images of `shape` are the input, concatenated, default 3 (image, perturbation, gradient)
    deep     a third halving, to 4 width (code; default False)

    Weights start as N(0, .02), fully connected ones as Xavier's (code); at other widths than 64 with a deviation of
    .02 sqrt(64 / width), so that their sums are as large.

    Raises:
        ValueError: a shape that cannot be halved, no channels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int | None = 10,
        *,
        width: int = 64,
        latent: int = 8,
        images: int = 3,
        deep: bool = False,
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        part = 8 if deep else 4
        if height % part or breadth % part:
            raise ValueError(
                f"this U-Net halves images {3 if deep else 2} times, so sides are multiples of {part}; "
                f"got {height}x{breadth}"
            )
        if width < 1 or latent < 0 or images < 1:
            raise ValueError(f"UNet needs width >= 1, latent >= 0 and images >= 1; got {width}, {latent} and {images}")
        self.shape, self.classes, self.latent = tuple(shape), classes, latent

        def norm(size: int) -> GlobalBatchNorm:
            return GlobalBatchNorm(size, classes, eps=1e-10)

        if latent:
            self.encode = nn.Sequential(nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, latent), nn.ReLU())
        self.down0 = nn.Conv2d(images * channels + latent, width, 3, padding=1, bias=False)
        self.down1 = nn.Conv2d(width + latent, width, 4, stride=2, padding=1, bias=False)
        self.down1_norm = norm(width)
        self.down2 = nn.Conv2d(width + latent, 2 * width, 4, stride=2, padding=1, bias=False)
        self.deep = deep
        if deep:
            self.down2_norm = norm(2 * width)
            self.down3 = nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, bias=False)
            self.up3 = nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False)
            self.up3_norm = norm(2 * width)
        self.up2 = nn.ConvTranspose2d((4 if deep else 2) * width, width, 4, stride=2, padding=1, bias=False)
        self.up2_norm = norm(width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False)
        self.up1_norm = norm(width)
        self.out = nn.Conv2d(2 * width, channels, 3, padding=1, bias=False)
        self.leaky, self.relu = nn.LeakyReLU(0.2), nn.ReLU()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.02 * (64 / width) ** 0.5)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
        # A fifth faster on processors, where channels are few.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor, z: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        code = self.encode(z) if self.latent else None
        y = y if self.classes is not None else None
        down0 = self.leaky(self.down0(_beside(images, code)))
        down1 = self.leaky(self.down1_norm(self.down1(_beside(down0, code)), y))
        lowest = self.down2(_beside(down1, code))
        if self.deep:
            down2 = self.leaky(self.down2_norm(lowest, y))
            lowest = self.leaky(self.down3(down2))
            lowest = torch.cat([self.relu(self.up3_norm(self.up3(lowest), y)), down2], 1)
        else:
            lowest = self.leaky(lowest)
        up2 = torch.cat([self.relu(self.up2_norm(self.up2(lowest), y)), down1], 1)
        up1 = torch.cat([self.relu(self.up1_norm(self.up1(up2), y)), down0], 1)
        return self.out(up1).tanh()


def _beside(images: Tensor, code: Tensor | None) -> Tensor:
    """The code as so many more channels, the same at every pixel."""
    if code is None:
        return images
    return torch.cat([images, code[:, :, None, None].expand(-1, -1, *images.shape[2:])], 1)

"""Networks that model images: a PixelCNN, the generator and critic of a GAN, a denoising autoencoder."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.networks.layers import check_shape
from steelman.types import Images, Labels, Logits, PerImage

Choice: TypeAlias = Callable[[Logits, tuple[int, int, int]], Labels]
"""The level of one value, of place (channel, row, column), from the logits of its levels."""


class _MaskedConv2d(nn.Conv2d):
    """A convolution that looks only at pixels before its own in raster order and, of its own pixel, at channels before
    its own: at its own channel too with `itself`. Of c channels, feature k belongs to channel k mod c."""

    mask: Tensor

    def __init__(self, into: int, out: int, size: int, channels: int, itself: bool) -> None:
        super().__init__(into, out, size, padding=size // 2)
        mask, middle = torch.zeros(out, into, size, size), size // 2
        mask[:, :, :middle] = 1
        mask[:, :, middle, :middle] = 1
        ahead = torch.arange(out)[:, None] % channels - torch.arange(into) % channels
        mask[:, :, middle, middle] = (ahead >= (0 if itself else 1)).to(mask.dtype)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * self.mask, self.bias)


@final
class PixelCNN(nn.Module):
    """The probability of an image, as that of each of its values given those before it: p(x) = prod_i p(x_i | x_<i).

    Values have a few levels, k / (levels - 1). Masked conv7-16, `depth` times masked conv3-16, each with ReLU, and
    masked conv1 to a softmax over the levels. Pixels come in raster order, the channels of a pixel one after the other.
    A value sees 3 + depth rows above its own, and as many columns to either side.

    shape   of one image, default (1, 28, 28)
    levels  default 16 (ours; PixelCNN++: 256)
    width   default 16 (ours; PixelCNN++: 160)
    depth   default 3: 8,032 parameters for one channel, those that are masked included

    `network(x)` gives logits of shape (batch, levels, *shape) for images of any values; `quantised(x)` are the levels
    that they are to predict. Reduced from PixelCNN++: no gates, no second stack (so there is a blind spot right above),
    no mixture of logistics.

    Reference: Aaron van den Oord, Nal Kalchbrenner and Koray Kavukcuoglu, "Pixel recurrent neural networks", ICML 2016,
    section 3.4 (masks A and B).

    Raises:
        ValueError: no image shape; fewer than 2 levels, a width or depth below 1.
    """

    def __init__(
        self, *, shape: Sequence[int] = (1, 28, 28), levels: int = 16, width: int = 16, depth: int = 3
    ) -> None:
        super().__init__()
        channels, *_ = check_shape("PixelCNN", shape, 1)
        if levels < 2 or width < 1 or depth < 1:
            raise ValueError(f"PixelCNN needs levels >= 2, width >= 1, depth >= 1; got {levels}, {width}, {depth}")
        self.shape, self.levels = tuple(shape), levels
        layers: list[nn.Module] = [_MaskedConv2d(channels, width, 7, channels, itself=False), nn.ReLU()]
        for _ in range(depth):
            layers += [_MaskedConv2d(width, width, 3, channels, itself=True), nn.ReLU()]
        self.layers = nn.Sequential(*layers, _MaskedConv2d(width, levels * channels, 1, channels, itself=True))

    def forward(self, x: Images) -> Tensor:
        return self.layers(x).unflatten(1, (self.levels, self.shape[0]))

    def quantised(self, x: Images) -> Tensor:
        """The nearest level of each value."""
        return (x * (self.levels - 1)).round().clamp(0, self.levels - 1).to(torch.int64)

    def log_likelihood(self, x: Images) -> PerImage:
        """The mean log-probability of the values of each image, rounded to levels, in nats."""
        levels = self.quantised(x)
        logits = self(levels.to(x.dtype) / (self.levels - 1))
        return -F.cross_entropy(logits, levels, reduction="none").flatten(1).mean(1)

    @torch.no_grad()
    def scan(self, images: int, choose: Choice) -> Images:
        """So many images, whose values are chosen in turn, each from its logits given the values before it.

        A value's features depend on no later one, so that each layer is computed once at each place: all in all one
        forward pass, where a pass for every value would cost as many as there are values.
        """
        channels, height, width = self.shape
        layers = [each for each in self.layers if isinstance(each, _MaskedConv2d)]
        weights = [(each.weight * each.mask).flatten(1).T for each in layers]
        edges = [each.kernel_size[0] - 1 for each in layers]
        seen = [
            each.weight.new_zeros(images, each.in_channels, height + edge, width + edge)
            for each, edge in zip(layers, edges, strict=True)
        ]
        margin = layers[0].kernel_size[0] // 2
        for row in range(height):
            for column in range(width):
                for channel in range(channels):
                    logits = _at(row, column, layers, weights, seen).unflatten(1, (self.levels, channels))
                    level = choose(logits[:, :, channel], (channel, row, column))
                    seen[0][:, channel, row + margin, column + margin] = level / (self.levels - 1)
        return seen[0][:, :, margin:-margin, margin:-margin].clone()


def _at(row: int, column: int, layers: list[_MaskedConv2d], weights: list[Tensor], seen: list[Tensor]) -> Tensor:
    """The last layer's answer at one pixel; each layer's features there are written into what the next one sees."""
    answer = seen[0]
    for place, (layer, weight) in enumerate(zip(layers, weights, strict=True)):
        size = layer.kernel_size[0]
        patch = seen[place][:, :, row : row + size, column : column + size].flatten(1)
        answer = patch @ weight if layer.bias is None else torch.addmm(layer.bias, patch, weight)
        if place + 1 < len(layers):
            margin = layers[place + 1].kernel_size[0] // 2
            seen[place + 1][:, :, row + margin, column + margin] = answer.relu()
    return answer


@final
class GANGenerator(nn.Module):
    """Images in [0, 1] from normal numbers: Defense-GAN's generator for MNIST.

    FC to 4 width maps of a fourth of a fourth, ReLU; three transposed conv5 of stride 2, to 2 width, width and the
    image's channels, each doubling the sides, with ReLU and at the end a sigmoid. On MNIST sides are 4, 8 (cut to 7),
    14, 28. No batch normalisation.

    shape   of one image, default (1, 28, 28); sides that are multiples of 4
    latent  how many numbers z has, default 128 (code)
    width   default 64 (code): 1,554,177 parameters on MNIST; latent 32 and width 16: 98,241

    Reference: Pouya Samangouei, Maya Kabkab and Rama Chellappa, "Defense-GAN: protecting classifiers against
    adversarial attacks using generative models", ICLR 2018, authors' code.

    Raises:
        ValueError: no image shape, or sides that are no multiples of 4; latent or width below 1.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), latent: int = 128, width: int = 64) -> None:
        super().__init__()
        channels, height, across = check_shape("GANGenerator", shape, 4)
        if height % 4 or across % 4:
            raise ValueError(f"GANGenerator makes images whose sides are multiples of 4; got {height}x{across}")
        if latent < 1 or width < 1:
            raise ValueError(f"GANGenerator needs latent >= 1 and width >= 1; got {latent} and {width}")
        self.shape, self.latent = tuple(shape), latent
        self.first = (4 * width, -(-height // 8), -(-across // 8))
        self.fc = nn.Linear(latent, self.first[0] * self.first[1] * self.first[2])
        self.deconv1, self.deconv2, self.deconv3 = (
            nn.ConvTranspose2d(into, out, 5, stride=2, padding=2, output_padding=1)
            for into, out in ((4 * width, 2 * width), (2 * width, width), (width, channels))
        )

    def forward(self, z: Tensor) -> Images:
        maps = self.deconv1(self.fc(z).relu().unflatten(1, self.first)).relu()
        maps = maps[:, :, : self.shape[1] // 4, : self.shape[2] // 4]
        return self.deconv3(self.deconv2(maps).relu()).sigmoid()


@final
class GANCritic(nn.Module):
    """How real an image looks, one number without bounds: the critic of Defense-GAN's WGAN.

    Three conv5 of stride 2, to width, 2 width and 4 width, with LeakyReLU .2, and FC to 1. No normalisation.

    shape  of one image, default (1, 28, 28)
    width  default 64 (code): 1,030,145 parameters on MNIST

    Images are padded by two pixels on each side, where TensorFlow, which the code is in, pads an even side by one
    before and two after.

    Reference: Pouya Samangouei, Maya Kabkab and Rama Chellappa, "Defense-GAN: protecting classifiers against
    adversarial attacks using generative models", ICLR 2018, authors' code.

    Raises:
        ValueError: no image shape, a width below 1.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), width: int = 64) -> None:
        super().__init__()
        channels, height, across = check_shape("GANCritic", shape, 1)
        if width < 1:
            raise ValueError(f"GANCritic needs width >= 1; got {width}")
        self.shape = tuple(shape)
        layers: list[nn.Module] = []
        for into, out in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(into, out, 5, stride=2, padding=2), nn.LeakyReLU(0.2)]
        places = -(-height // 8) * -(-across // 8)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * places, 1))

    def forward(self, x: Images) -> PerImage:
        return self.layers(x)[:, 0]


@final
class MLPGenerator(nn.Sequential):
    """Images in [0, 1] from normal numbers, for small images: FC `hidden`, ReLU, FC to the values, sigmoid.

    shape   of one image, default (1, 8, 8)
    latent  how many numbers z has, default 8
    hidden  default 64: 4,736 parameters on Digits

    Reference: none; ours.

    Raises:
        ValueError: no image shape; latent or hidden below 1.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 8, 8), latent: int = 8, hidden: int = 64) -> None:
        values = math.prod(check_shape("MLPGenerator", shape, 1))
        if latent < 1 or hidden < 1:
            raise ValueError(f"MLPGenerator needs latent >= 1 and hidden >= 1; got {latent} and {hidden}")
        super().__init__(
            *(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, values), nn.Sigmoid()),
            nn.Unflatten(1, tuple(shape)),
        )
        self.shape, self.latent = tuple(shape), latent


@final
class MLPCritic(nn.Sequential):
    """How real an image looks, for small images: two FC of `width` with LeakyReLU .2, and FC to one number.

    shape  of one image, default (1, 8, 8)
    width  default 64: 8,385 parameters on Digits

    Reference: none; ours.

    Raises:
        ValueError: no image shape, a width below 1.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 8, 8), width: int = 64) -> None:
        values = math.prod(check_shape("MLPCritic", shape, 1))
        if width < 1:
            raise ValueError(f"MLPCritic needs width >= 1; got {width}")
        super().__init__(
            *(nn.Flatten(), nn.Linear(values, width), nn.LeakyReLU(0.2)),
            *(nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1), nn.Flatten(0)),
        )


@final
class DenoisingAutoencoder(nn.Sequential):
    """An image in, an image in [0, 1] out: MagNet's autoencoder I for MNIST.

    conv3-3, mean of 2x2, conv3-3, conv3-3, each pixel doubled to 2x2, conv3-3, conv3 to the image's channels; a sigmoid
    after each convolution.

    shape  of one image, default (1, 28, 28); even sides
    width  default 3 (code): 310 parameters on MNIST

    Reference: Dongyu Meng and Hao Chen, "MagNet: a two-pronged defense against adversarial examples", CCS 2017,
    section 5.1, authors' code.

    Raises:
        ValueError: no image shape, or odd sides; a width below 1.
    """

    def __init__(self, *, shape: Sequence[int] = (1, 28, 28), width: int = 3) -> None:
        channels, height, across = check_shape("DenoisingAutoencoder", shape, 2)
        if height % 2 or across % 2:
            raise ValueError(
                f"DenoisingAutoencoder halves the sides of images, which must be even; got {height}x{across}"
            )
        if width < 1:
            raise ValueError(f"DenoisingAutoencoder needs width >= 1; got {width}")
        sizes = [(channels, width), (width, width), (width, width), (width, width), (width, channels)]
        first, second, third, fourth, last = (
            nn.Sequential(nn.Conv2d(into, out, 3, padding=1), nn.Sigmoid()) for into, out in sizes
        )
        super().__init__(first, nn.AvgPool2d(2), second, third, nn.Upsample(scale_factor=2), fourth, last)
        self.shape = tuple(shape)

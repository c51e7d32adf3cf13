"""The generator and the critic of AdvGAN, as its common PyTorch re-implementation has them."""

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn

from steelman.adversaries.generators.hourglass import extended, hourglass, initialise, middle
from steelman.networks.layers import check_shape


@final
class AdvGANGenerator(nn.Module):
    """An image in, an image in [-1, 1] out.

    An `hourglass` between conv3 and transposed conv6, with instance normalisation and four residual blocks. No
    convolution is padded outside of the blocks: on MNIST sides are 28, 26, 12, 5, 11, 23, 28. The re-implementation's
    biases before instance normalisation, which have no effect, are left out. Weights start as N(0, .02).

    shape  of one image
    width  default 8: 86,120 parameters for MNIST

    Images whose sides are no multiples of 4, or below 16, are extended by their border and cut out again (ours).

    Raises:
        ValueError: no image shape, a width below 1.
    """

    def __init__(self, shape: Sequence[int], width: int = 8) -> None:
        super().__init__()
        channels, *_ = check_shape("AdvGANGenerator", shape, 1)
        if width < 1:
            raise ValueError(f"AdvGANGenerator needs width >= 1; got {width}")
        self.shape, self.classes = tuple(shape), None
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, bias=False),
            *hourglass(width, 4, nn.InstanceNorm2d, padding=0),
            *(nn.ConvTranspose2d(width, channels, 6, bias=False), nn.Tanh()),
        )
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        return middle(self.layers(extended(images, least=16, part=4)), images)


@final
class AdvGANCritic(nn.Module):
    """How real images look, 0 to 1, at each place of a coarse map, flat: one place on MNIST, four on CIFAR-10.

    Conv4 stride 2, width; conv4 stride 2, 2 width; conv4 stride 2, 4 width; LeakyReLU .2 after each; conv1, sigmoid. No
    convolution is padded. The re-implementation has batch normalisation after the second and third; without it (ours)
    the answer for an image depends on no other image. Weights start as He's: with N(0, .02), as there, the answer would
    hardly depend on the image.

    shape  of one image
    width  default 8: 10,457 parameters for MNIST

    Images with sides below 22 are extended by their border (ours).

    Raises:
        ValueError: no image shape, a width below 1.
    """

    def __init__(self, shape: Sequence[int], width: int = 8) -> None:
        super().__init__()
        channels, *_ = check_shape("AdvGANCritic", shape, 1)
        if width < 1:
            raise ValueError(f"AdvGANCritic needs width >= 1; got {width}")
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, width, 4, stride=2), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(width, 2 * width, 4, stride=2), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(2 * width, 4 * width, 4, stride=2), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(4 * width, 1, 1), nn.Sigmoid(), nn.Flatten()),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.2)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(extended(images, least=22))

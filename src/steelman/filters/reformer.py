"""MagNet's reformer: images go through a denoising autoencoder."""

from typing import ClassVar

from torch import nn

from steelman.filters.trained import TrainedFilter
from steelman.types import Images


class Reformer(TrainedFilter):
    """The answer of an autoencoder that was trained to take noise away, in place of the image.

    network  the autoencoder, such as `DenoisingAutoencoder`, trained by `Denoising`

    Deterministic, with its own gradient. MagNet's other half, detectors of images that the autoencoder changes much, is
    no part of it.

    Broken by: `PGD` or `CarliniWagner` through it, as by any attack that knows of it (Carlini and Wagner, who break
    MagNet with its detectors too). An attack on the network alone (`IgnoringFilter`) is the naive one, which the paper
    defends against.

    Cost: 1 forward and backward pass of the autoencoder.
    Reference: Dongyu Meng and Hao Chen, "MagNet: a two-pronged defense against adversarial examples", CCS 2017, section
    4.3; Nicholas Carlini and David Wagner, "MagNet and 'Efficient defenses against adversarial attacks' are not robust
    to adversarial examples", arXiv 2017, 1711.08478, section 3.

    Raises:
        ValueError: no autoencoder; images of another shape than it was trained on.
    """

    differentiable: ClassVar[bool] = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, ("shape",), "a DenoisingAutoencoder")

    def forward(self, x: Images) -> Images:
        self.out_shape(tuple(x.shape[1:]))
        return self.network(x.to(next(self.network.parameters()).dtype)).to(x.dtype)

"""Feature squeezing: fewer colours, or smoother images."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from steelman.types import Images


class BitDepth(nn.Module):
    """Fewer bits per value: each is rounded to the nearest of 2^bits evenly spaced levels.

    round(x (2^b - 1)) / (2^b - 1), for x in [0, 1]; halves are rounded to the even level, as in numpy. The levels
    continue outside of [0, 1].

    bits     b, from 1 to 16; default 1 ("Efficient defenses", MNIST; CIFAR-10: 3)
    variant  "xu" (default) is that. "guo": round(x 2^b) / 2^b, one level more, as in the code of Guo et al.
             "truncate": of the nearest byte the last 8 - b bits become 0, as in the code of Athalye et al., so that the
             image gets darker and white is lost; b up to 8

    Its own gradient is 0 everywhere. Put it before a network with `Filtered`, which approximates it by `BPDA`.

    Broken by: `PGD` through the identity (`BPDA`).

    Cost: negligible.
    Reference: Weilin Xu, David Evans and Yanjun Qi, "Feature squeezing: detecting adversarial examples in deep neural
    networks", NDSS 2018, color depth; Chuan Guo, Mayank Rana, Moustapha Cisse and Laurens van der Maaten, "Countering
    adversarial images using input transformations", ICLR 2018; broken in Anish Athalye, Nicholas Carlini and David
    Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, section 5.2.

    Raises:
        ValueError: bits is no whole number from 1 to 16 (truncate: 8); another variant.
    """

    def __init__(self, bits: int = 1, variant: Literal["xu", "guo", "truncate"] = "xu") -> None:
        super().__init__()
        if variant not in ("xu", "guo", "truncate"):
            raise ValueError(f'BitDepth has the variants "xu", "guo" and "truncate"; got {variant!r}')
        most = 8 if variant == "truncate" else 16
        if not isinstance(bits, int) or not 1 <= bits <= most:
            raise ValueError(f"BitDepth needs bits, a whole number from 1 to {most}; got {bits}")
        self.bits, self.variant = bits, variant

    def forward(self, x: Images) -> Images:
        if self.variant == "truncate":
            size = 2 ** (8 - self.bits)
            return ((x * 255).round() / size).floor() * size / 255
        steps = 2**self.bits - (self.variant == "xu")
        return (x * steps).round() / steps

    def extra_repr(self) -> str:
        return f"bits={self.bits}" + f", variant={self.variant!r}" * (self.variant != "xu")


class MedianSmoothing(nn.Module):
    """Median filter: each value becomes the median of the window around it, channel by channel.

    Of an even number of values it is the upper of the two in the middle, and a window of even size reaches one further
    up and left than down and right; outside, the image is mirrored (d c b a | a b c d | d c b a). All three as in
    `scipy.ndimage.median_filter`, which the authors' code calls.

    size  of the window, in pixels, default 2 (paper: 2 for MNIST and CIFAR-10, 2 or 3 for ImageNet)

    Put it before a network with `Filtered`, which uses its own gradient, that of the one pixel that is the median. The
    gradient of the identity overestimates robustness: the robust accuracy under PGD of a perceptron on digits was 67 %
    with it, 53 % with the true gradient (Linf .1; L2 .5: 70 and 45 %), and 51 % under `Square`.

    Broken by: `PGD` through its own gradient.

    Cost: memory for size^2 images.
    Reference: Weilin Xu, David Evans and Yanjun Qi, "Feature squeezing: detecting adversarial examples in deep neural
    networks", NDSS 2018, spatial smoothing.

    Raises:
        ValueError: size is no whole number >= 1; images that are not (batch, channels, height, width).
    """

    differentiable: ClassVar[bool] = True

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"MedianSmoothing needs size, a whole number of pixels from 1; got {size}")
        self.size = size

    def forward(self, x: Images) -> Images:
        if x.ndim != 4:
            raise ValueError(f"MedianSmoothing needs images (batch, channels, height, width); got {tuple(x.shape)}")
        rows, columns = (self._mirrored(side, x.device) for side in x.shape[2:])
        windows = x[:, :, rows][..., columns].unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(4)
        return windows.kthvalue(self.size**2 // 2 + 1, dim=4).values

    def _mirrored(self, side: int, device: torch.device) -> Tensor:
        """For each place of the padded side, the place of its pixel in the image."""
        before = self.size // 2
        place = torch.arange(-before, side + self.size - 1 - before, device=device) % (2 * side)
        return torch.where(place < side, place, 2 * side - 1 - place)

    def extra_repr(self) -> str:
        return f"size={self.size}"

"""PixelDefend: images are moved to where a density model finds them likely."""

import torch
from torch import Tensor, nn

from steelman.filters.trained import TrainedFilter
from steelman.types import Images


class PixelDefend(TrainedFilter):
    """Each value becomes the likeliest one near it, given the values that were chosen before: greedy, in raster order.

    x'_i = argmax { p(v | x'_<i) : |v - x_i| <= eps }, channel by channel, over the levels v of the density model; x_i
    is rounded to a level first, and of equally likely levels the lowest is taken.

    network  the density model p, a `PixelCNN`
    eps      radius of the window in the units of the images, in whole levels of the model (the nearest number of them);
             default 16/255 (paper, CIFAR-10; the script of its code: 10/255), which is one of 16 levels

    Deterministic. It has no gradient; `Filtered` puts it into `BPDA` with the identity. The authors' variant with a
    radius for each value (`pxl_fixed`) and the paper's adaptive one are left out.

    Broken by: `PGD` through `BPDA`, which `Filtered` gives: 9 % of CIFAR-10 are left at Linf .031 (Athalye et al.).
    An attack on the network alone (`IgnoringFilter`) is the naive one.

    Cost: 1 forward pass of the network, in as many steps as an image has values; one by one (the authors' first code)
    it would be a pass for each value.
    Reference: Yang Song, Taesup Kim, Sebastian Nowozin, Stefano Ermon and Nate Kushman, "PixelDefend: leveraging
    generative models to understand and defend against adversarial examples", ICLR 2018, section 4.2, algorithm 1;
    Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 5.4.1.

    Raises:
        ValueError: no `PixelCNN`; a negative eps; images of another shape than it was trained on, or outside of [0, 1].
    """

    def __init__(self, network: nn.Module, eps: float = 16 / 255) -> None:
        super().__init__(network, ("shape", "levels", "quantised", "scan"), "a PixelCNN")
        if not eps >= 0:
            raise ValueError(f"PixelDefend needs eps >= 0; got {eps}")
        self.eps = eps

    @property
    def reach(self) -> int:
        """The radius in levels."""
        return round(min(self.eps, 1.0) * (self.network.levels - 1))

    @torch.no_grad()
    def forward(self, x: Images) -> Images:
        self.check(x)
        given, every = self.network.quantised(x), torch.arange(self.network.levels, device=x.device)

        def choose(logits: Tensor, place: tuple[int, int, int]) -> Tensor:
            channel, row, column = place
            far = (every - given[:, channel, row, column, None]).abs() > self.reach
            return logits.masked_fill(far, -torch.inf).argmax(1)

        with torch.autocast(x.device.type, enabled=False):  # rounded logits would tie
            return self.network.scan(len(x), choose).to(x.dtype)

    def extra_repr(self) -> str:
        return f"eps={self.eps:g}"

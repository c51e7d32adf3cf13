"""PixelDefend: images are moved to where a density model finds them likely."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.filters.trained import TrainedFilter
from steelman.types import Flags, Images, Labels

WIDEST = 32 / 255
"""The largest radius of a value that has its own (code)."""

SLACK = 1e-4
"""In levels, so that 32/255 are 32 levels of 256 whatever rounding does."""


class PixelDefend(TrainedFilter):
    """Each value becomes the likeliest one near it, given the values that were chosen before: greedy, in raster order.

    x'_i = argmax { p(v | x'_<i) : |v - x_i| <= eps }, channel by channel, over the levels v of the density model; x_i
    is rounded to a level first, and of equally likely levels the lowest is taken.

    network   the density model p, a `PixelCNN`
    eps       radius of the window in the units of the images, in whole levels of the model (the nearest number of
              them); default 16/255 (paper, CIFAR-10; the script of its code: 10/255), which is one of 16 levels
    likely    the paper's adaptive form: an image of at most so many bits per value, -log2 p(x) / n, is only rounded;
              default None: every image is moved. The paper sets it by hand; a high quantile over clean images leaves
              most of these as they are
    by_value  the code's adaptive form (`pxl_fixed`): a value has a radius of its own, eps / 2 times its surprise
              -log p(x_i | x'_<i) in nats, at most 32/255, in whole levels, rounded down; default False

    Deterministic. It has no gradient; `Filtered` puts it into `BPDA` with the identity.

    Broken by: `PGD` through `BPDA`, which `Filtered` gives: 9 % of CIFAR-10 are left at Linf .031 (Athalye et al.).
    An attack on the network alone (`IgnoringFilter`) is the naive one.

    Cost: 1 forward pass of the network, in as many steps as an image has values, and 1 more with `likely`; one by one
    (the authors' first code) it would be a pass for each value.
    Reference: Yang Song, Taesup Kim, Sebastian Nowozin, Stefano Ermon and Nate Kushman, "PixelDefend: leveraging
    generative models to understand and defend against adversarial examples", ICLR 2018, section 4, algorithm 1;
    Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated gradients give a false sense of security:
    circumventing defenses to adversarial examples", ICML 2018, section 5.4.1.

    Raises:
        ValueError: no `PixelCNN`; a negative eps, or `likely` not above 0; images of another shape than it was trained
            on, or outside of [0, 1].
    """

    def __init__(
        self, network: nn.Module, eps: float = 16 / 255, likely: float | None = None, by_value: bool = False
    ) -> None:
        super().__init__(network, ("shape", "levels", "quantised", "scan", "log_likelihood"), "a PixelCNN")
        if not eps >= 0:
            raise ValueError(f"PixelDefend needs eps >= 0; got {eps}")
        if likely is not None and not likely > 0:
            raise ValueError(f"likely are bits per value, above 0; got {likely}")
        self.eps, self.likely, self.by_value = eps, likely, by_value

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
            value = given[:, channel, row, column]
            reach = self._reach_at(logits, value) if self.by_value else self.reach
            far = (every - value[:, None]).abs() > torch.where(moved, reach, 0)[:, None]
            return logits.masked_fill(far, -torch.inf).argmax(1)

        with torch.autocast(x.device.type, enabled=False):  # rounded logits would tie
            moved = self._moved(x)
            return self.network.scan(len(x), choose).to(x.dtype)

    def _moved(self, x: Images) -> Flags:
        """Which images are moved at all."""
        if self.likely is None:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        like = next(self.network.parameters())
        return -self.network.log_likelihood(x.to(like.dtype)) / math.log(2) > self.likely

    def _reach_at(self, logits: Tensor, value: Labels) -> Tensor:
        """Each value's own radius in levels."""
        radius = self.eps / 2 * F.cross_entropy(logits, value, reduction="none")
        return (radius.clamp(max=WIDEST) * (self.network.levels - 1) + SLACK).floor()

    def extra_repr(self) -> str:
        likely = "" if self.likely is None else f", likely={self.likely:g}"
        return f"eps={self.eps:g}{likely}" + ", by_value=True" * self.by_value

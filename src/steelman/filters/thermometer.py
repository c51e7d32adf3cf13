"""Images as thermometers or one-hot codes of a few levels."""

from typing import Literal

import torch
from torch import Tensor, nn

from steelman.types import Images


class Thermometer(nn.Module):
    """Each value as `levels` bits: thermometer (1 up to its level) or one-hot (1 at its level alone).

    With m = floor(.99999 l x), thermometer bit k is [k <= m], k = 0..l-1, and one-hot bit k is [k = m]. Channel c
    becomes the channels c l to c l + l - 1, so (C, H, W) becomes (C l, H, W), and the network behind it takes C l
    channels.

    levels  l, default 16 (paper)
    kind    "thermometer" (default) or "one_hot"
    width   of the stand-in's slope, in levels; default 2

    Paper and code differ: the paper's bit k is [x > k/l], so that its bit 0 is 0 at x = 0, and its bit k is 1 right
    above k/l; the code's, which is ours, is 1 from 1.00001 k/l on, and its bit 0 always is. Of the 256 grey values only
    0 has other bits.

    It has no gradient. `stand_in`, which `Filtered` uses, is clip((l x - k) / width + 1/2, 0, 1) for a thermometer, and
    the triangle max(0, 1 - |l x - k - 1/2| / 1.5) for a one-hot code. The width decides how strong an attack is: a
    slope of one level passes one bit of each value, and the ramp of the attack's authors (width 1, half a level lower)
    none of the highest values. A network trained by LS-PGA on MNIST (.3, 50 images) keeps 78 % under PGD through width
    2, 72 % through 4, 8 and 16, 70 % under APGD through 4, and as many under `Square`.

    Broken by: PGD through that stand-in (BPDA). `ThermometerTraining` trains with it.

    Cost: memory for l images.
    Reference: Jacob Buckman, Aurko Roy, Colin Raffel and Ian Goodfellow, "Thermometer encoding: one hot way to resist
    adversarial examples", ICLR 2018, section 3; broken in Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated
    gradients give a false sense of security: circumventing defenses to adversarial examples", ICML 2018, section 5.1.

    Raises:
        ValueError: levels is no whole number >= 2; another kind; width is not above 0; images outside of [0, 1].
    """

    def __init__(
        self, levels: int = 16, kind: Literal["thermometer", "one_hot"] = "thermometer", width: float = 2.0
    ) -> None:
        super().__init__()
        if not isinstance(levels, int) or isinstance(levels, bool) or levels < 2:
            raise ValueError(f"Thermometer needs levels, a whole number from 2; got {levels}")
        if kind not in ("thermometer", "one_hot"):
            raise ValueError(f'Thermometer has the kinds "thermometer" and "one_hot"; got {kind!r}')
        if not width > 0:
            raise ValueError(f"Thermometer needs a width above 0; got {width}")
        self.levels, self.kind, self.width = levels, kind, width

    def level(self, x: Images) -> Tensor:
        """The level of each value, from 0 to `levels` - 1."""
        if x.numel() and not bool(((x >= 0) & (x <= 1)).all()):
            low, high = (float(end) for end in x.aminmax())
            raise ValueError(f"Thermometer encodes images in [0, 1]; these reach from {low:.4g} to {high:.4g}")
        return (0.99999 * self.levels * x.double()).floor().clamp_(max=self.levels - 1).long()

    def forward(self, x: Images) -> Tensor:
        return self.encoded(self.level(x), x.dtype)

    def encoded(self, level: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The bits of levels, shape (batch, channels, height, width) to (batch, channels levels, height, width)."""
        k = self._places(level)
        bits = k <= level[:, :, None] if self.kind == "thermometer" else k == level[:, :, None]
        return bits.to(dtype).flatten(1, 2)

    def decoded(self, bits: Tensor) -> Images:
        """Values in [0, 1] from bits: m / (l - 1)."""
        each = bits.unflatten(1, (-1, self.levels))
        level = each.sum(2) - 1 if self.kind == "thermometer" else each.argmax(2).to(bits)
        return level / (self.levels - 1)

    def stand_in(self, x: Images) -> Tensor:
        """The bits as a continuous function of the image."""
        over = self.levels * x[:, :, None] - self._places(x).to(x)
        if self.kind == "thermometer":
            return (over / self.width + 0.5).clamp(0, 1).flatten(1, 2)
        return (1 - (over - 0.5).abs() / (0.75 * self.width)).clamp(min=0).flatten(1, 2)

    def _places(self, x: Tensor) -> Tensor:
        return torch.arange(self.levels, device=x.device)[:, None, None]

    def extra_repr(self) -> str:
        return f"levels={self.levels}, kind={self.kind}, width={self.width:g}"

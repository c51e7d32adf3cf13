"""JPEG, by Pillow, with a differentiable stand-in."""

import io
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman.extras import require
from steelman.types import Images

LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
"""The standard's example of quantisation of brightness (ITU-T T.81, annex K.1)."""
CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32),
)
"""Of the two colour differences."""
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


class JPEG(nn.Module):
    """Images compressed by JPEG and read again, by Pillow, with colour at half the resolution (4:2:0).

    quality   from 1 to 100, default 75 (paper)
    backward  "dct" (default): the gradient of JPEG written in torch, rounding passed straight through, which is close
              to a projection on the waves that survive. "identity": that of the papers' attacks

    Attack with both, and judge by the worst: neither is stronger for all networks.

    Broken by: PGD through either stand-in (BPDA).
    Cost: a file written and read by Pillow for each image; backwards some matrix products.
    Reference: Chuan Guo, Mayank Rana, Moustapha Cisse and Laurens van der Maaten, "Countering adversarial images using
    input transformations", ICLR 2018, section 4.2; broken in Anish Athalye, Nicholas Carlini and David Wagner,
    "Obfuscated gradients give a false sense of security", ICML 2018, section 5.2.

    Raises:
        ImportError: Pillow is not installed. ValueError: quality is no whole number from 1 to 100; another backward;
        images with neither 1 nor 3 channels, or with
            values outside of [0, 1].
    """

    def __init__(self, quality: int = 75, backward: Literal["dct", "identity"] = "dct") -> None:
        super().__init__()
        if not isinstance(quality, int) or isinstance(quality, bool) or not 1 <= quality <= 100:
            raise ValueError(f"JPEG needs quality, a whole number from 1 to 100; got {quality}")
        if backward not in ("dct", "identity"):
            raise ValueError(f'JPEG has the gradients "dct" and "identity"; got {backward!r}')
        require("JPEG", "PIL", extra="full")
        self.quality, self.backward = quality, backward

    def forward(self, x: Images) -> Images:
        from PIL import Image

        self._check(x)
        values = (255 * x.detach()).round().to("cpu", torch.uint8).movedim(1, -1).numpy()
        read = []
        for each in values:
            file = io.BytesIO()
            Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each).save(file, "JPEG", quality=self.quality)
            with Image.open(file) as image:
                read.append(np.asarray(image).reshape(each.shape))
        whole = np.stack(read) if read else values
        return torch.from_numpy(whole).movedim(-1, 1).to(x) / 255

    def stand_in(self, x: Images) -> Images:
        """JPEG in torch, differentiable; the image itself for the identity."""
        return x if self.backward == "identity" else self.in_torch(x)

    def in_torch(self, x: Images) -> Images:
        """As Pillow, but for rounding inside its cosine transform."""
        self._check(x)
        height, width = x.shape[2:]
        values = _rounded(255 * x)
        if x.shape[1] == 1:
            return _in_range(self._plane(values, LUMA)) / 255
        ycbcr = torch.einsum("oc,bchw->bohw", values.new_tensor(TO_YCBCR), values)
        y, colour = _rounded(ycbcr[:, :1]), _rounded(ycbcr[:, 1:] + 128)
        colour = F.pad(colour, (0, width % 2, 0, height % 2), mode="replicate")
        colour = _rounded(F.avg_pool2d(colour, 2))
        y, colour = self._plane(y, LUMA), self._plane(colour, CHROMA)
        colour = F.interpolate(colour, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
        whole = torch.cat([y, _rounded(colour) - 128], 1)
        inverse = torch.linalg.inv(values.new_tensor(TO_YCBCR).double()).to(values)
        return _in_range(_rounded(torch.einsum("oc,bchw->bohw", inverse, whole))) / 255

    def _plane(self, plane: Tensor, table: tuple[int, ...]) -> Tensor:
        """Quantised in blocks of 8 x 8, plane by plane."""
        height, width = plane.shape[2:]
        padded = F.pad(plane - 128, (0, -width % 8, 0, -height % 8), mode="replicate")
        blocks = padded.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
        cosines, steps = _cosines().to(plane), self._steps(table).to(plane)
        waves = _rounded(cosines @ blocks @ cosines.T / steps) * steps
        again = (cosines.T @ waves @ cosines).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        return _in_range(_rounded(again[..., :height, :width] + 128))

    def _steps(self, table: tuple[int, ...]) -> Tensor:
        """The quantisation of this quality, as in libjpeg."""
        scale = 5000 // self.quality if self.quality < 50 else 200 - 2 * self.quality
        steps = [min(max((each * scale + 50) // 100, 1), 255) for each in table]
        return torch.tensor(steps, dtype=torch.float64).reshape(8, 8)

    def _check(self, x: Images) -> None:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"JPEG needs images (batch, channels, height, width) of 1 or 3 channels; got {tuple(x.shape)}"
            )
        low, high = (float(end) for end in x.detach().aminmax()) if x.numel() else (0.0, 1.0)
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise ValueError(f"JPEG needs images in [0, 1]; these reach from {low:.4g} to {high:.4g}")

    def extra_repr(self) -> str:
        return f"quality={self.quality}, backward={self.backward}"


@cache
def _cosines() -> Tensor:
    """The orthonormal cosine transform of 8 values, as a matrix."""
    k, n = torch.arange(8, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)[None]
    matrix = (torch.pi * (2 * n + 1) * k / 16).cos() / 2
    matrix[0] /= 2**0.5
    return matrix


def _rounded(x: Tensor) -> Tensor:
    """Rounded, with the gradient of the identity."""
    return x + (x.round() - x).detach()


def _in_range(x: Tensor) -> Tensor:
    return x.clamp(0, 255)

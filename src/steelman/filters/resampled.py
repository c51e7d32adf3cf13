"""Random windows: an image resized and padded, or a part of it enlarged."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from steelman.types import Images

Mode = Literal["nearest", "bilinear"]


class RandomResizePad(nn.Module):
    """Resizes each image to r x r at random, and puts it at a random place of an out x out image of one colour.

    r ~ U{low, ..., out}, and the offsets a, b ~ U{0, ..., out - r}, drawn anew for each image and call. A pixel of the
    result is one of the image (nearest) or a mean of four (bilinear, as `interpolate` with align_corners=False).

    low    the smallest side, default that of the images; ImageNet: 299 in the paper, 310 in its code
    out    the side of the result, default an eighth more than that of the images, rounded up; ImageNet: 331
    pad    the colour around it, default 0, the background of MNIST; the code's is .5
    mode   "nearest" (default, code) or "bilinear"
    flip   mirror half of the images (default False; the code does)
    shape  of the images, for the defaults; a recipe's network gives it

    The authors' code draws one r, a, b for a batch, and answers with the mean of 30 draws: `MeanOfDraws(network, 30)`.
    There are sum over r of (out - r + 1)^2 windows: 12,528 for the paper's numbers. Images have equal sides.

    Its own gradient is used.

    Broken by: PGD under `EOT`, with 10 draws or often with one, since the mean gradient over windows is that of an
    ordinary network.
    Cost: two matrix products for each image.
    Reference: Cihang Xie, Jianyu Wang, Zhishuai Zhang, Zhou Ren and Alan Yuille, "Mitigating adversarial effects
    through randomization", ICLR 2018, section 4; broken in Anish Athalye, Nicholas Carlini and David Wagner,
    "Obfuscated gradients give a false sense of security", ICML 2018, section 5.3.

    Raises:
        ValueError: not 1 <= low <= out; another mode; images whose sides differ.
    """

    random: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def __init__(
        self,
        low: int | None = None,
        out: int | None = None,
        pad: float = 0.0,
        mode: Mode = "nearest",
        flip: bool = False,
        *,
        shape: tuple[int, ...] = (1, 28, 28),
    ) -> None:
        super().__init__()
        self.low, self.pad, self.flip = shape[1] if low is None else low, pad, flip
        self.mode: Mode = mode
        self.out = shape[1] + -(-shape[1] // 8) if out is None else out
        if not 1 <= self.low <= self.out:
            raise ValueError(f"RandomResizePad needs 1 <= low <= out; got low {self.low} and out {self.out}")
        _check_mode("RandomResizePad", mode)

    def forward(self, x: Images) -> Tensor:
        side = _side("RandomResizePad", x)
        size = torch.randint(self.low, self.out + 1, (len(x),), device=x.device)
        room = (self.out - size + 1).double()
        first, second = ((torch.rand(len(x), device=x.device, dtype=torch.float64) * room).long() for _ in range(2))
        whole, begin = torch.full_like(size, side), torch.zeros_like(size)
        rows, columns = (_lines(side, self.out, begin, whole, at, size, self.mode).to(x) for at in (first, second))
        if self.flip:
            flipped = torch.rand(len(x), device=x.device) < 0.5
            columns = torch.where(flipped[:, None, None], columns.flip(2), columns)
        inside = rows.sum(2)[:, None, :, None] * columns.sum(2)[:, None, None, :]
        return _resampled(x, rows, columns) + self.pad * (1 - inside)

    def extra_repr(self) -> str:
        return f"low={self.low}, out={self.out}, pad={self.pad:g}, mode={self.mode}, flip={self.flip}"


class RandomCrop(nn.Module):
    """A random square part of each image, enlarged to the side of the image.

    Its side is `share` of the image's, rounded, and its corner is at a whole pixel, drawn uniformly for each image and
    call.

    share  default 90/299 (paper, ImageNet); 24/28 for MNIST and CIFAR-10
    mode   "bilinear" (default) or "nearest"

    The paper answers with the mean of the softmax over 30 crops: `MeanOfDraws(network, 30)`. The attack's code gives
    the network crops of 90 pixels without enlarging them; the paper's enlarges.

    Its own gradient is used.

    Broken by: PGD under `EOT`, in L2.

    Cost: two matrix products for each image.
    Reference: Chuan Guo, Mayank Rana, Moustapha Cisse and Laurens van der Maaten, "Countering adversarial images using
    input transformations", ICLR 2018, section 4.1; broken in Anish Athalye, Nicholas Carlini and David Wagner,
    "Obfuscated gradients give a false sense of security", ICML 2018, section 5.2.

    Raises:
        ValueError: share is not in (0, 1]; another mode; images whose sides differ.
    """

    random: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def __init__(self, share: float = 90 / 299, mode: Mode = "bilinear") -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"RandomCrop needs a share above 0 and up to 1; got {share}")
        _check_mode("RandomCrop", mode)
        self.share = share
        self.mode: Mode = mode

    def forward(self, x: Images) -> Images:
        side = _side("RandomCrop", x)
        size = max(round(self.share * side), 1)
        corners = torch.randint(0, side - size + 1, (2, len(x)), device=x.device)
        span, whole = torch.full_like(corners[0], size), torch.full_like(corners[0], side)
        first = torch.zeros_like(span)
        rows, columns = (_lines(side, side, at, span, first, whole, self.mode).to(x) for at in corners)
        return _resampled(x, rows, columns)

    def extra_repr(self) -> str:
        return f"share={self.share:.4g}, mode={self.mode}"


def _lines(side: int, out: int, begin: Tensor, span: Tensor, first: Tensor, size: Tensor, mode: Mode) -> Tensor:
    """Weights (batch, out, side) of a line's pixels in a result line; 0 outside of the part that is seen.

    The `span` pixels from `begin` on are resized to `size`, which stand from `first` on; all four per image.
    """
    begin, span, first, size = (each[:, None].double() for each in (begin, span, first, size))
    place = torch.arange(out, device=size.device)[None] - first
    inside = (place >= 0) & (place < size)
    if mode == "nearest":
        parts = [((place * span / size).floor(), 1.0)]
    else:
        exact = torch.minimum(((place + 0.5) * span / size - 0.5).clamp(min=0), span - 1)
        parts = [(exact.floor(), (1 - exact % 1)[..., None]), (exact.floor() + 1, (exact % 1)[..., None])]
    pixels = torch.arange(side, device=size.device)
    weights = [weight * ((begin + seen)[..., None] == pixels) for seen, weight in parts]
    return torch.stack(weights).sum(0) * inside[..., None]


def _resampled(x: Images, rows: Tensor, columns: Tensor) -> Tensor:
    return rows[:, None] @ x @ columns[:, None].transpose(2, 3)


def _side(name: str, x: Images) -> int:
    if x.ndim != 4 or x.shape[2] != x.shape[3]:
        raise ValueError(f"{name} needs images (batch, channels, side, side); got {tuple(x.shape)}")
    return x.shape[2]


def _check_mode(name: str, mode: str) -> None:
    if mode not in ("nearest", "bilinear"):
        raise ValueError(f'{name} has the modes "nearest" and "bilinear"; got {mode!r}')

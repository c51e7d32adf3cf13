"""The generator of PGN: a map made of the label, to which gradient and image are added."""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@final
class PGNGenerator(nn.Module):
    """An image, a gradient and a label in, a shift of the image's shape out, unbounded.

    The one-hot label goes through fc1 (hidden) and, with the label again, fc2, which makes a map of width channels, a
    quarter as wide and high as the image. up1 and up2, transposed conv3 of stride 2 with the label at every pixel of
    their inputs, double it twice. conv (3x3, width) has that map, grad_scale times the gradient, and the image in
    [-1, 1] as its input; out (3x3, the image's channels, linear) follows. LeakyReLU .2 after all but out.

    shape     of one image; height and width are multiples of 4
    classes   of the labels
    width     default 128 (paper): 8,966,147 parameters for CIFAR-10
    hidden    default 1024 (paper)
    gradient, image, label  the inputs, default True each. Others have no channels; without the label all images are of
              one class, so that fc1 has a constant input
    grad_scale  default 1/128, see `PGN`

    All before conv depends on the label alone, so it is computed once for each class in the batch, and so is its part
    of conv. Weights start as He's normal ones, by the fan that both torch and TensorFlow call fan_in; biases as 0
    (code).

    Raises:
        ValueError: a shape that cannot be halved twice, no channels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        width: int = 128,
        hidden: int = 1024,
        gradient: bool = True,
        image: bool = True,
        label: bool = True,
        grad_scale: float = 1 / 128,
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        if height % 4 or breadth % 4:
            raise ValueError(f"this generator doubles twice, so sides are multiples of 4; got {height}x{breadth}")
        if width < 1 or hidden < 1:
            raise ValueError(f"PGNGenerator needs width and hidden of at least 1; got {width} and {hidden}")
        self.shape, self.classes = tuple(shape), classes if label else None
        self.gradient, self.image, self.grad_scale = gradient, image, grad_scale
        self.seed = (width, height // 4, breadth // 4)
        labels = self.classes or 1
        self.fc1 = nn.Linear(labels, hidden)
        self.fc2 = nn.Linear(hidden + labels, width * height * breadth // 16)
        self.up1 = nn.ConvTranspose2d(width + labels, width, 3, stride=2, padding=1, output_padding=1)
        self.up2 = nn.ConvTranspose2d(width + labels, width, 3, stride=2, padding=1, output_padding=1)
        self.conv = nn.Conv2d(width + (gradient + image) * channels, width, 3, padding=1)
        self.out = nn.Conv2d(width, channels, 3, padding=1)
        self.leaky = nn.LeakyReLU(0.2)
        for layer in (self.fc1, self.fc2, self.up1, self.up2, self.conv, self.out):
            nn.init.kaiming_normal_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, gradients: Tensor | None, y: Tensor) -> Tensor:
        """`images` are in [-1, 1]; an argument that is no input of this generator is ignored."""
        seen = [images] if self.image else []
        if self.gradient:
            if gradients is None:
                raise ValueError("this generator was trained with the gradient: set gradient=True")
            seen = [self.grad_scale * gradients, *seen]
        kinds, place = (torch.zeros_like(y) if self.classes is None else y).unique(return_inverse=True)
        label = F.one_hot(kinds, self.classes or 1).to(self.fc1.weight.dtype)
        code = self.leaky(self.fc2(torch.cat([self.leaky(self.fc1(label)), label], 1))).unflatten(1, self.seed)
        code = self.leaky(self.up1(_with(code, label)))
        code = self.leaky(self.up2(_with(code, label)))
        of_code, of_seen = self.conv.weight.split([code.shape[1], self.conv.in_channels - code.shape[1]], 1)
        inner = F.conv2d(code, of_code, self.conv.bias, padding=1)[place]
        if seen:
            inner = inner + F.conv2d(torch.cat(seen, 1), of_seen, padding=1)
        return self.out(self.leaky(inner))


def _with(code: Tensor, label: Tensor) -> Tensor:
    """The label as so many more channels, the same at every pixel."""
    return torch.cat([code, label[:, :, None, None].expand(-1, -1, *code.shape[2:])], 1)

"""Models without gradients that are robust all the same."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from zoo.nets import Linear, filled, robust_conv, stored, train_images

EDGES = (0.22, 0.41, 0.59, 0.78)
"""Of a pixel's five bins, in `stumps`; none is just where a grey level and the radius end."""


def sealed() -> Callable[[Tensor], Tensor]:
    """A network trained on adversarial images, of which only the class is to be had."""
    net = robust_conv()

    def answer(images: Tensor) -> Tensor:
        with torch.no_grad():
            return net(images).argmax(1)

    return answer


class Bits(nn.Module):
    """Black and white, then a linear layer, which was trained for the worst of the bits that a radius of .15 flips."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x > 0.5).float())


def bits() -> nn.Module:
    return Bits(filled(Linear(), "linear bits"))


def stumps() -> Callable[[Tensor], Tensor]:
    """A sum of steps, a table of five bins for each pixel, as boosted trees of depth 1 are; numpy alone."""
    scores = stored()["stumps"].numpy().astype(np.float64)  # (pixels, bins, classes)
    first = stored()["stumps bias"].numpy().astype(np.float64)

    def predict(images: Tensor) -> Tensor:
        bins = np.digitize(images.detach().cpu().numpy().reshape(len(images), -1), EDGES)
        return torch.from_numpy(scores[np.arange(64), bins].sum(1) + first)

    return predict


def nearest() -> Callable[[Tensor], Tensor]:
    """The class of the nearest training image."""
    known, labels = train_images()

    def answer(images: Tensor) -> Tensor:
        return labels[torch.cdist(images.detach().flatten(1).double(), known.flatten(1).double()).argmin(1)]

    return answer

"""Initial weights other than PyTorch's."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from steelman.ranges import Checked, Positive

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class NormalInit(Checked):
    """Weights of convolutions and fully connected layers from N(0, std^2), and constant biases.

    std        default .01 (MatConvNet's MNIST example; its CIFAR-10 example has .05)
    first      deviation of the first such layer, where it is another one (that example: .01); default std
    bias       default 0
    truncated  values beyond two standard deviations are drawn again, as TensorFlow's truncated normal; default False

    Other layers, such as batch normalisation, start as PyTorch's do. Values come from torch's global generator.

    Raises:
        ValueError: std or first is not positive, bias not a finite number, or truncated neither True nor False.
    """

    std: Positive = 0.01
    first: Positive | None = None
    bias: float = 0.0
    truncated: bool = False

    def __post_init__(self) -> None:
        numbers = all(
            isinstance(each, float | int) and not isinstance(each, bool)
            for each in (self.std, self.first or 1, self.bias)
        )
        if not (numbers and math.isfinite(self.bias) and isinstance(self.truncated, bool)):
            raise ValueError(f"init needs numbers std and bias, and truncated = true or false; got {self}")

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> None:
        for place, layer in enumerate(each for each in network.modules() if isinstance(each, _LAYERS)):
            std = self.std if place or self.first is None else self.first
            if self.truncated:
                nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            else:
                nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, self.bias)

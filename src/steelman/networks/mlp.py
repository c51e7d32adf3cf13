"""The perceptron of the Deep Defense paper."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import final

from torch import Tensor, nn

from steelman.networks.shapes import check_shape


@final
class MLP(nn.Module):
    """Multi-layer perceptron: flatten, then fully connected layers with ReLU between them.

    shape    of one image, default (1, 28, 28)
    classes  default 10
    hidden   widths of the hidden layers, default (500, 150): 469,160 parameters on MNIST
    gain     what the input is multiplied by, default 1. The same function can be learnt with any gain, but a large one
             speeds the first layer up (by its square) and keeps its weights small; MatConvNet's pixels go up to 255

    Layers: fc1, fc2, ... in order; the last one gives the logits.
    Reference: Yan, Guo and Zhang, "Deep Defense: training DNNs with improved adversarial robustness", NeurIPS 2018,
    section 4 (they count the input and call it four-layer).
    """

    def __init__(
        self,
        *,
        shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        hidden: Sequence[int] = (500, 150),
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        check_shape("MLP", shape, 1)
        self.depth = len(hidden) + 1
        self.gain = gain
        for place, (fan_in, fan_out) in enumerate(pairwise([math.prod(shape), *hidden, classes]), start=1):
            self.add_module(f"fc{place}", nn.Linear(fan_in, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.gain * x.flatten(1)
        for place in range(1, self.depth):
            x = self.get_submodule(f"fc{place}")(x).relu()
        return self.get_submodule(f"fc{self.depth}")(x)

"""The perceptron of the Deep Defense paper."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import final

from torch import nn

from steelman.networks.layers import Rescale, check_shape, numbered


@final
class MLP(nn.Sequential):
    """Multi-layer perceptron: flatten, then fully connected layers with ReLU between them.

    shape    of one image, default (1, 28, 28)
    classes  default 10
    hidden   widths of the hidden layers, default (500, 150): 469,160 parameters on MNIST
    gain     what the input is multiplied by, default 1. The same function can be learnt with any gain, but a large one
             speeds the first layer up (by its square) and keeps its weights small; MatConvNet's pixels go up to 255

    Layers: flatten, rescale (where gain is not 1), fc1, relu1, fc2, ...; the last one gives the logits.
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
        check_shape("MLP", shape, 1)
        layers: list[nn.Module] = [nn.Flatten(), *([Rescale(scale=gain)] if gain != 1 else [])]
        for fan_in, fan_out in pairwise([math.prod(shape), *hidden, classes]):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        super().__init__(numbered(*layers[:-1]))

"""What filters with a trained network in them share."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from steelman.types import Images


class TrainedFilter(nn.Module):
    """A filter with a trained network, a copy of the one that it is given.

    Its weights are frozen and part of the filter's state, so that a checkpoint of the whole model has them; it stays in
    evaluation mode.

    network  with an attribute `shape`, that of the images which it was trained on
    needs    the attributes that it must have, and what has them
    """

    network: Any

    def __init__(self, network: nn.Module, needs: tuple[str, ...], such_as: str) -> None:
        super().__init__()
        if not isinstance(network, nn.Module) or not all(hasattr(network, name) for name in needs):
            raise ValueError(
                f"{type(self).__name__} needs a trained network such as {such_as}, with {', '.join(needs)}; got "
                f"{type(network).__name__}. `checkpoint.network(path)` reads one"
            )
        self.network = deepcopy(network).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "TrainedFilter":
        super().train(mode)
        self.network.eval()
        return self

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The images' own; ValueError where the network was trained on another one."""
        if tuple(shape) != tuple(self.network.shape):
            raise ValueError(
                f"the network in {type(self).__name__} was trained on images of {tuple(self.network.shape)}; these are "
                f"{tuple(shape)}: train one on such"
            )
        return tuple(shape)

    def check(self, x: Images) -> None:
        """Raises ValueError for images of another shape, or with values outside of [0, 1]."""
        self.out_shape(tuple(x.shape[1:]))
        low, high = x.aminmax() if x.numel() else (torch.zeros(()), torch.ones(()))
        if not bool((low >= -1e-4) & (high <= 1 + 1e-4)):
            raise ValueError(
                f"{type(self).__name__} needs images in [0, 1]; these reach from {low:.4g} to {high:.4g}: make another "
                "range a layer of the network behind it"
            )

"""Dropout whose masks an image and its perturbations share."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from steelman.networks.surgery import no_recomputation
from steelman.types import Indices


class Masks:
    """A forward hook by which every dropout layer keeps one mask for the whole batch, drawn at its first pass.

    `rows` are the places in the batch of the images of the next pass; None (default) are all.
    """

    def __init__(self, batch: int) -> None:
        self.rows: Indices | None = None
        self._batch = batch
        self._masks: dict[nn.Module, Tensor] = {}

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(layer, _DropoutNd)
        (x,) = inputs
        if layer not in self._masks:
            whole_channels = not isinstance(layer, nn.Dropout)
            shape = (self._batch, x.shape[1], *[1] * (x.ndim - 2)) if whole_channels else (self._batch, *x.shape[1:])
            keep = 1 - layer.p
            drawn = torch.bernoulli(torch.full(shape, keep, dtype=x.dtype, device=x.device))
            self._masks[layer] = drawn / max(keep, 1e-12)
        mask = self._masks[layer]
        return x * (mask if self.rows is None else mask[self.rows])


@contextmanager
def shared_dropout(network: nn.Module, batch: int) -> Iterator[Masks]:
    """Within it, dropout layers in train mode share their masks between all passes of a batch of so many images.

    A layer that runs twice in one forward pass has one mask for both.

    Raises:
        ValueError: a layer whose mask cannot be shared; a network with dropout that is checkpointed.
    """
    dropouts = (module for module in network.modules() if isinstance(module, _DropoutNd))
    layers = [each for each in dropouts if each.training and each.p > 0]
    for layer in layers:
        if isinstance(layer, nn.AlphaDropout | nn.FeatureAlphaDropout):
            raise ValueError(f"{type(layer).__name__} cannot share its mask; use Dropout")
    masks = Masks(batch)
    with ExitStack() as stack:
        stack.enter_context(no_recomputation(network, bool(layers)))
        for layer in layers:
            stack.callback(layer.register_forward_hook(masks).remove)
        yield masks

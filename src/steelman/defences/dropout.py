"""Dropout that an image and its perturbations share."""

from contextlib import ExitStack
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from steelman.networks.surgery import no_recomputation
from steelman.types import Indices


class SharedDropout:
    """Inside, every dropout layer in train mode keeps one mask for the whole batch, drawn at its first pass.

    `rows` names the images of the batch that the next pass is about. A layer that is passed twice in one forward has
    one mask for both.

    Raises:
        ValueError: a layer whose mask cannot be shared; a network with dropout that is checkpointed.
    """

    def __init__(self, network: nn.Module, batch: int) -> None:
        self._layers = [
            module
            for module in network.modules()
            if isinstance(module, _DropoutNd) and module.training and module.p > 0
        ]
        for layer in self._layers:
            if isinstance(layer, nn.AlphaDropout | nn.FeatureAlphaDropout):
                raise ValueError(f"{type(layer).__name__} cannot share its mask; use Dropout")
        self._masks: dict[nn.Module, Tensor] = {}
        self._network, self._stack = network, ExitStack()
        self._batch = batch
        self.rows: Indices | None = None

    def __enter__(self) -> "SharedDropout":
        self._stack.enter_context(no_recomputation(self._network, bool(self._layers)))
        for layer in self._layers:
            self._stack.callback(layer.register_forward_hook(self._apply).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def _apply(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(layer, _DropoutNd)
        (x,) = inputs
        if layer not in self._masks:
            whole_channels = not isinstance(layer, nn.Dropout)
            shape = (self._batch, x.shape[1], *[1] * (x.ndim - 2)) if whole_channels else (self._batch, *x.shape[1:])
            keep = 1 - layer.p
            self._masks[layer] = torch.bernoulli(torch.full(shape, keep, dtype=x.dtype, device=x.device)) / max(
                keep, 1e-12
            )
        mask = self._masks[layer]
        return x * (mask if self.rows is None else mask[self.rows])

"""Reaching into a network for a while: which layers learn, and batch normalisation kept still."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from steelman.naming import nearest
from steelman.networks.preprocess import Preprocessed


@contextmanager
def only_trainable(model: nn.Module, layers: Sequence[str] | None) -> Iterator[None]:
    """Within it, of the parameters that require a gradient, only those of the named submodules do.

    layers  names as in `model.named_modules()`, such as "conv1" or "block2.conv1"; those of a `Preprocessed` network
            need no "network." before them. None leaves all as they are

    Raises:
        ValueError: there is no such submodule; names the nearest.
    """
    network = model.network if isinstance(model, Preprocessed) else model
    chosen = None if layers is None else {id(each) for name in layers for each in _layer(network, name).parameters()}
    switched = [
        each for each in model.parameters() if each.requires_grad and chosen is not None and id(each) not in chosen
    ]
    try:
        for parameter in switched:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in switched:
            parameter.requires_grad_(True)


def batchnorm_layers(model: nn.Module) -> list[nn.Module]:
    """All batch normalisations, of any dimension."""
    return [each for each in model.modules() if isinstance(each, _BatchNorm)]


@contextmanager
def borrowed_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within it, the buffers of these very modules are copies; the originals come back untouched.

    So graphs built outside stay right when statistics move within, and the other way round.
    """
    own = [(module, name, value) for module in modules for name, value in module.named_buffers(recurse=False)]
    try:
        for module, name, value in own:
            setattr(module, name, value.clone())
        yield
    finally:
        for module, name, value in own:
            setattr(module, name, value)


@contextmanager
def freeze_batchnorm(model: nn.Module) -> Iterator[None]:
    """Within it, batch normalisations use their running statistics and do not learn.
    A call of `model.train()` within it undoes the first of these.
    """
    layers = batchnorm_layers(model)
    modes = [layer.training for layer in layers]
    switched = [each for layer in layers for each in layer.parameters() if each.requires_grad]
    try:
        for layer in layers:
            layer.eval()
        for parameter in switched:
            parameter.requires_grad_(False)
        with borrowed_buffers(layers):
            yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.train(mode)
        for parameter in switched:
            parameter.requires_grad_(True)


def _layer(network: nn.Module, name: str) -> nn.Module:
    modules = {key: module for key, module in network.named_modules() if key}
    if name not in modules:
        raise ValueError(f"{type(network).__name__} has no layer {name!r}; {nearest(name, modules)}")
    return modules[name]

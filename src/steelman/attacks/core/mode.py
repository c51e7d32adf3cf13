"""Evaluation mode, in which models are attacked, and their state before and after."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from steelman.forward import answer_of
from steelman.types import Images, Model


@contextmanager
def evaluation_mode(model: Model, frozen: bool = True) -> Iterator[None]:
    """Evaluation mode and, where `frozen`, no parameter gradients inside; afterwards every flag is restored."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    wanted = [parameter for parameter in model.parameters() if frozen and parameter.requires_grad]
    try:
        if any(training for _, training in modes):
            model.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            if module.training != training:  # setting it is slow
                module.training = training
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def buffers_kept(model: Model) -> Iterator[None]:
    """Restores every buffer of a module afterwards, such as running statistics."""
    buffers = [(each, each.clone()) for each in model.buffers()] if isinstance(model, nn.Module) else []
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def in_training(model: Model) -> bool:
    """Whether a module, or a part of it, is in train mode. One without that flag (frozen TorchScript) never is."""
    return isinstance(model, nn.Module) and any(getattr(each, "training", False) for each in model.modules())


def warn_if_mode_matters(model: Model, x: Images) -> None:
    """Warn of a model in train mode whose answers differ there, so that its accuracy would be misjudged.

    Cost: two forward passes on two images, and only for models in train mode. Buffers and the random state are kept.
    """
    if not in_training(model) or len(x) == 0:
        return
    devices = [x.device] if x.is_cuda else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        try:
            torch.manual_seed(0)  # a model that is random in both modes draws the same
            with buffers_kept(model):
                as_given = answer_of(model, x[:2])
        except ValueError:  # batch norm in train mode refuses a single value per channel
            as_given = None
        torch.manual_seed(0)
        with evaluation_mode(model):
            in_evaluation = answer_of(model, x[:2])
    if as_given is None or not torch.allclose(as_given, in_evaluation, rtol=1e-4, atol=1e-5, equal_nan=True):
        warnings.warn(
            "the model is in train mode, where its output differs (batch normalisation or dropout). The attack runs in "
            "evaluation mode; call model.eval() before you measure accuracy, or robustness will be overstated",
            stacklevel=5,
        )

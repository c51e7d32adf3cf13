"""Convolutions with the channel last in memory, for a model that is attacked on a CPU."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

from steelman.forward import Forward
from steelman.randomness import is_random
from steelman.types import Images, Model

KNOWN = ("torch.nn.modules.", "steelman.networks.")
"""Modules of which it is known that they compute the same in every layout."""
CLOSE, CLOSE_SLOPES = 1e-4, 0.1
"""Answers and gradients in another layout differ by less, relative to their L2 norms. Rounding decides where the
gradient of a maximum goes, as of pooling over a black background."""


@contextmanager
def channels_last(model: Model, x: Images, wanted: bool = True) -> Iterator[bool]:
    """Inside, the weights of `nn.Conv2d` lie in memory with the channel last, if the model allows it; yields whether.

    The weights are the same numbers, and the model's own code runs: answers differ by rounding alone. PyTorch's
    convolutions and poolings are faster so, `benchmarks/layout.py` measures how much. Afterwards the weights lie as
    before. It is not done where

    - the model is no module, is random (it would draw for other places), or has no such convolution;
    - images or weights are not on the CPU, or not float32;
    - it has hooks, which may count, or is compiled, and would be compiled again;
    - it has modules that are neither PyTorch's nor this package's networks, and its answers or gradients on two of the
      images differ, or raise an error, such as `view` on channels that are last. A copy is asked, so that a model
      that counts its calls does not count these.

    Cost: where such modules are, two forward and two backward passes on two images.
    """
    weights = _weights(model, x) if wanted else []
    if not weights or not _allowed(model, x[:2]):
        yield False
        return
    with _laid_out(weights):
        yield True


def _weights(model: Model, x: Images) -> list[nn.Parameter]:
    if not isinstance(model, nn.Module) or not len(x) or not _plain(x) or is_random(model):
        return []
    every = list(model.modules())
    if modules._has_any_global_hook() or any(map(_hooked, every)):
        return []
    found = {id(each.weight): each.weight for each in every if type(each) is nn.Conv2d}
    return [each for each in found.values() if type(each) is nn.Parameter and _plain(each) and not each.is_inference()]


def _plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype is torch.float32 and tensor.layout is torch.strided


def _hooked(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, each, None) for each in (*hooks, "_orig_mod", "_compiled_call_impl"))


@contextmanager
def _laid_out(weights: list[nn.Parameter]) -> Iterator[None]:
    before = [(each, each.data, each._version) for each in weights]
    try:
        for each in weights:
            each.data = each.data.to(memory_format=torch.channels_last)
        yield
    finally:
        for each, data, version in before:
            if each._version != version:  # the model has changed its weights
                data.copy_(each.data)
            each.data = data


def _allowed(model: Model, x: Images) -> bool:
    assert isinstance(model, nn.Module)
    if all(type(each).__module__.startswith(KNOWN) for each in model.modules()):
        return True
    try:
        with warnings.catch_warnings(), torch.random.fork_rng([]):
            warnings.simplefilter("ignore")  # the model will warn itself
            copied = deepcopy(model)
            weights = _weights(copied, x)
            plain = _answer(copied, x)
            with _laid_out(weights):
                last = _answer(copied, x)
    except Exception:  # a model may raise anything
        return False
    same = torch.equal(plain[0].argmax(-1), last[0].argmax(-1))
    return same and _close(plain[0], last[0], CLOSE) and _close(plain[1], last[1], CLOSE_SLOPES)


def _answer(model: nn.Module, x: Images) -> tuple[Tensor, Tensor]:
    """The answer, and the gradient of a weighted sum of it, 0 where there is none."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        answer = Forward(model)(x)
        if not answer.requires_grad:
            return answer.double(), torch.zeros(())
        total = (answer * torch.linspace(1, 2, answer.numel()).reshape(answer.shape)).sum()
        (gradient,) = torch.autograd.grad(total, x, allow_unused=True)
    return answer.detach(), torch.zeros(()) if gradient is None else gradient


def _close(one: Tensor, other: Tensor, within: float) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= within * one.norm())

"""What passes through a model in one call: the tensors at the ends of its submodules' calls, in their order."""

import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, order=True)
class Place:
    """Where a tensor stands in a model's call: what a submodule's call is given, or gives.

    name  as in `model.named_modules()`; "" is the model itself, whose input is the images and whose output the answer
    turn  which call of that submodule, from 0: shared layers run more than once
    """

    name: str
    turn: int
    side: Literal["input", "output"]


IMAGES, ANSWER = Place("", 0, "input"), Place("", 0, "output")

Visit = Callable[[Place, Tensor], Tensor | None]
"""Sees a tensor at a place, and may give another one in its stead."""


@contextmanager
def visited(model: nn.Module, visit: Visit, names: Collection[str] | None = None) -> Iterator[None]:
    """Within it, calls of the model show `visit` what its submodules are given and give, by hooks that end with it.

    Seen are floating-point tensors: the first argument of a call that is a tensor, and an output that is one or a
    tuple that begins with one. Hooks that are there already have run before. The model's own images and answer are not
    among these, and neither is what runs in the forward pass of a `torch.autograd.Function`, whose gradient is its own.

    names  the submodules to visit; default: all
    """
    turns, running = Counter[str](), defaultdict[str, list[int]](list)

    def shown(place: Place, tensor: Tensor) -> Tensor:
        hidden = not torch.is_grad_enabled() and in_custom_function()
        found = visit(place, tensor) if tensor.is_floating_point() and not hidden else None
        return tensor if found is None else found

    def before(name: str, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        place = Place(name, turns[name], "input")
        turns[name] += 1
        running[name].append(place.turn)
        for number, each in enumerate(args):
            if isinstance(each, Tensor):
                return (*args[:number], shown(place, each), *args[number + 1 :]), given
        for key, each in given.items():
            if isinstance(each, Tensor):
                return args, {**given, key: shown(place, each)}
        return args, given

    def after(name: str, output: Any) -> Any:
        place = Place(name, running[name].pop(), "output")
        if isinstance(output, Tensor):
            return shown(place, output)
        if type(output) is tuple and output and isinstance(output[0], Tensor):
            return (shown(place, output[0]), *output[1:])
        return output

    handles = []
    try:
        for name, module in model.named_modules():
            if name and (names is None or name in names):
                enter = module.register_forward_pre_hook(
                    lambda _, a, k, name=name: before(name, a, k), with_kwargs=True
                )
                handles += [enter, module.register_forward_hook(lambda _, a, out, name=name: after(name, out))]
        yield
    finally:
        for handle in handles:
            handle.remove()


def in_custom_function() -> bool:
    """Whether this is called from the forward pass of a `torch.autograd.Function`."""
    frame = inspect.currentframe()
    while frame is not None:
        first = frame.f_code.co_varnames[:1] if frame.f_code.co_argcount else ()
        if first and isinstance(frame.f_locals.get(first[0]), FunctionCtx):
            return True
        frame = frame.f_back
    return False


class ArraysOfGraphs(TorchFunctionMode):
    """Within it, a tensor in a graph gives its array, as it would where gradients are off."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*(args if func is not Tensor.numpy else (args[0].detach(), *args[1:])), **(kwargs or {}))

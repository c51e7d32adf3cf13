"""How often an attack waits for a GPU, and whether it mixes tensors of two devices: found without a GPU.

`Pretended` is a mode in which tensors of the CPU say that they are on a GPU. What is made of them is there too. A call
that needs a number from there (`bool`, `item`, a mask as index), or copies one to it, would have the host wait until
the GPU has done all that was asked before: no launch is then prepared while the GPU works. Counted are the calls in
Steelman's own code; what torch does inside of a call is not seen.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.gpu.attacks import Row
from benchmarks.gpu.ground import Setting, ground
from benchmarks.gpu.timing import problem
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import steelman
from steelman import APGD, DDN, FAB, FMN, MIM, PGD, Attack, DeepFool, Square
from steelman.norms import L1, L2, Linf

GPU = torch.device("cuda", 0)
HOME = Path(steelman.__file__).parent

NUMBERS = {
    "item",
    "tolist",
    "numpy",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "is_nonzero",
    "equal",
    "allclose",
}
SHAPES = {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "one_hot"}
"""Calls whose number, or whose shape, the host has to know."""
MOVES = {"to", "copy_", "type_as", "backward", "grad"}
PLACED = {"as_tensor", "tensor", "from_numpy", "asarray"}


class Pretended(TorchFunctionMode):
    """Counts in `waits` and `mixed`, by place in Steelman's code and name of the call. `on` puts tensors there."""

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.mixed = Counter[str](), Counter[str]()

    def __enter__(self) -> "Pretended":
        """Also where torch does not ask the mode: `grad`, functions with their own backward, the GPU's own calls."""
        grad, own, fork = torch.autograd.grad, torch.autograd.Function.__dict__["apply"], torch.random.fork_rng

        def followed(outputs: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            return self._follow(grad(outputs, inputs, *more, **named), (inputs,))

        def apply(kind: Any, *given: Any) -> Any:
            return self._follow(own.__func__(kind, *given), given)

        self.stack = ExitStack()
        for place, name, new in (
            (torch.autograd, "grad", followed),
            (torch.autograd.Function, "apply", classmethod(apply)),
            (torch.random, "fork_rng", lambda devices=(), enabled=True: fork([], enabled)),
            (torch.cuda, "get_device_name", str),
        ):
            self.stack.enter_context(patch.object(place, name, new))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.stack.close()

    def _follow(self, found: Any, given: Any) -> Any:
        if any(map(_there, _tensors(given))):
            self.on(*_tensors(found))
        return found

    def on(self, *tensors: Tensor) -> None:
        for each in tensors:
            each.pretended = True  # pyright: ignore[reportAttributeAccessIssue]

    def module(self, model: nn.Module) -> nn.Module:
        """A copy of a network, on the GPU."""
        model = deepcopy(model)
        self.on(*model.parameters(), *model.buffers())
        return model

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.data.__set__:  # how a module moves its parameters
            self._follow(args[0], args[1])
            return func(*args)
        if func == Tensor.device.__get__ and _there(args[0]):
            return GPU
        if func == Tensor.is_cuda.__get__:
            return _there(args[0])
        name, tensors = getattr(func, "__name__", str(func)), list(_tensors((args, kwargs)))
        asked = [each for each in (*args, *kwargs.values()) if _is_device(each)]
        there = [each for each in tensors if _there(each)]
        if there:
            self._look(name, args, tensors, there)
        goes = _goes(name, args, asked, there)
        if goes and name in PLACED and not there:
            self._count(self.waits, f"{name} from the host")
        if name in ("to", "copy_") and tensors and goes != _there(tensors[-1 if name == "copy_" else 0]):
            self._count(self.waits, f"{name} between devices")
        args, kwargs = _here(args), {key: _here((value,))[0] for key, value in kwargs.items()}
        found = func(*args, **kwargs)
        if name in ("to", "cpu", "type_as") and found is args[0] and goes != _there(found):
            found = found.view(found.shape)  # a copy, where it moves
        if goes:
            self.on(*_tensors(found))
        return found

    def _look(self, name: str, args: tuple[Any, ...], tensors: list[Tensor], there: list[Tensor]) -> None:
        if name in NUMBERS | SHAPES or name == "cpu" or (name == "where" and len(args) == 1):
            self._count(self.waits, name)
        if name in ("__getitem__", "__setitem__"):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            masks = [each for each in index if isinstance(each, Tensor) and each.dtype is torch.bool]
            filled = name == "__setitem__" and not (isinstance(args[2], Tensor) and args[2].numel() > 1)
            if masks and not filled:
                self._count(self.waits, f"{name} by a mask")
            if any(isinstance(each, list) or (isinstance(each, Tensor) and not _there(each)) for each in index):
                self._count(self.waits, f"{name} by an index of the host")
            if not _there(args[0]):
                self._count(self.mixed, name)
        elif name == "repeat_interleave" and isinstance(args[1], Tensor):
            self._count(self.waits, name)
        elif name not in MOVES and any(each.ndim and not _there(each) for each in tensors):
            self._count(self.mixed, name)

    def _count(self, into: Counter[str], what: str) -> None:
        into[f"{_place()} {what}"] += 1


def _there(value: Any) -> bool:
    return getattr(value, "pretended", False)


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda"))


def _goes(name: str, args: tuple[Any, ...], asked: list[Any], there: list[Tensor]) -> bool:
    """Whether the result is on the GPU."""
    if asked:
        return torch.device(asked[0]).type == "cuda"
    if name == "cpu":
        return False
    if name in ("to", "type_as") and len(args) > 1 and isinstance(args[1], Tensor):
        return _there(args[1])
    return _there(args[0]) if name in ("to", "copy_") else bool(there)


def _here(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(torch.device("cpu") if _is_device(each) else each for each in values)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _place() -> str:
    """The innermost file and function of Steelman that is running."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(HOME) and frame.f_code.co_filename != __file__:
            return f"{path.relative_to(HOME)} {frame.f_code.co_qualname}:"
        frame = frame.f_back
    return "outside"


def counted(attack: Attack, model: nn.Module, x: Tensor, y: Tensor) -> Pretended:
    """An attack on tensors that say they are on a GPU."""
    mode = Pretended()
    model, x, y = mode.module(model), x.clone(), y.clone()
    mode.on(x, y)
    with mode:
        attack(model, x, y, generator=torch.arange(len(x)))
    return mode


EPS = 0.1
IMAGES, STEPS = 5, (24, 34)
"""A shorter and a longer run; FMN and DDN take some of their steps for start and polish."""

CASES: dict[str, Callable[[int], Attack]] = {
    "PGD Linf": lambda steps: PGD(EPS, steps=steps),
    "PGD L2": lambda steps: PGD(1.0, norm=L2, steps=steps),
    "PGD L1": lambda steps: PGD(10.0, norm=L1, steps=steps),
    "PGD Linf, stop_early": lambda steps: PGD(EPS, steps=steps, stop_early=True),
    "MIM Linf": lambda steps: MIM(EPS, steps=steps),
    "APGD Linf": lambda steps: APGD(EPS, steps=steps),
    "APGD L1": lambda steps: APGD(10.0, norm=L1, steps=steps),
    "Square Linf": lambda steps: Square(EPS, queries=steps, stop_early=False),
    "Square Linf, stop_early": lambda steps: Square(EPS / 100, queries=steps),
    "DDN": lambda steps: DDN(steps=steps),
    "FMN Linf": lambda steps: FMN(Linf, steps=steps),
    "FMN L2": lambda steps: FMN(L2, steps=steps),
    "FAB": lambda steps: FAB(steps=steps),
    "DeepFool": lambda steps: DeepFool(steps=steps),
}


def waits(setting: Setting, name: str = "LeNet") -> Iterator[Row]:
    """Waits of a call, and of each further step: those of a longer run less those of a shorter one."""
    here = ground(name, Setting(torch.device("cpu"), setting.folder, True))
    x, y = here.images(IMAGES)
    for attack, make in CASES.items():
        row: Row = {"table": "waits", "attack": attack}
        try:
            short, long = (counted(make(steps), here.model, x, y) for steps in STEPS)
            each = (long.waits.total() - short.waits.total()) / (STEPS[1] - STEPS[0])
            row |= {"each": each, "waits": short.waits.total(), "mixed": _most(long.mixed.items())}
            more = ((place, count - short.waits[place]) for place, count in long.waits.items())
            row["places"] = _most((place, count / (STEPS[1] - STEPS[0])) for place, count in more)
        except Exception as error:
            row["error"] = problem(error)
        yield row


def _most(counts: Iterable[tuple[str, float]]) -> dict[str, float]:
    return dict(sorted(((key, count) for key, count in counts if count), key=lambda each: -each[1])[:8])

"""What tells one model, attack or set of images from another: digests of everything that decides its answers."""

import ast
import enum
import functools
import hashlib
import importlib.util
import inspect
import os
import re
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelman.types import Description, Images, Labels, Share

CHECKPOINT = "best.safetensors"
"""What stands for a run's folder."""

LEVELS = 65535 * 16
"""Pixels are hashed as whole multiples of 1 / LEVELS. Those of 8 and of 16 bits are such multiples, so that a division
that rounds otherwise, as on a GPU, makes no other image of them."""


def digest(value: object) -> str:
    """A hash of a value and of everything in it: numbers, tensors, modules, functions with their code, files' content.

    A path, also as text, stands for the file's bytes; one of a run's folder for its best checkpoint. Of a dataclass,
    the fields count that are compared. The code of libraries is known by its name.
    """
    reader = _Reader()
    reader.take(value)
    return str(reader)


def model_parts(model: object) -> dict[str, str]:
    """Digests of all that decides a model's answers, under what a user calls it.

    `classes` (names and structure), their `code` (as source, where that can be had), `weights`, `buffers` (persistent
    or not), and `attributes`: all else that the modules hold, and hooks. Of another callable than a module, `code`.
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    if isinstance(model, nn.Module):
        return _parts(model, False, {})
    reader = _Reader(strict=False)
    reader.take(model)
    return {"code": str(reader)}


def _parts(model: nn.Module, strict: bool, memory: dict[int, tuple[object, str]]) -> dict[str, str]:
    readers = {name: _Reader(strict, memory) for name in ("classes", "code", "weights", "buffers", "attributes")}
    for name, module in model.named_modules():
        readers["classes"].say(name, class_name(type(module)))
        readers["code"].take(type(module))
        for kind, values in (("weights", module._parameters), ("buffers", module._buffers)):
            for key, value in values.items():
                readers[kind].take((f"{name}.{key}", value))
        readers["attributes"].take([name, *_attributes(module).items()])
    return {name: str(reader) for name, reader in readers.items()}


def image_digests(x: Images, y: Labels) -> np.ndarray:
    """One int64 for each image: a hash of its pixels, to within 1 / 2,097,120, of its shape and of its label."""
    levels = (x.detach().cpu().float() * LEVELS).round().clamp(-(2**30), 2**30).to(torch.int32).numpy()
    shape = repr(tuple(x.shape[1:]))
    hashes = (
        hashlib.blake2b(image.tobytes(), key=f"{shape} {label}".encode()[:64], digest_size=8).digest()
        for image, label in zip(levels, y.tolist(), strict=True)
    )
    return np.frombuffer(b"".join(hashes), np.int64).copy()


def without_address(text: str) -> str:
    """A repr that is the same in every process."""
    return _ADDRESS.sub("", text)


class _Reader:
    """Values, one after the other, into one hash.

    Of an object that Python cannot take apart, only the class is known. Where that is not enough (`strict`), it is like
    no other object, and like itself only while this process runs.
    """

    def __init__(self, strict: bool = True, memory: dict[int, tuple[object, str]] | None = None) -> None:
        self.hash = hashlib.sha256()
        self.strict = strict
        self.memory = {} if memory is None else memory

    def __str__(self) -> str:
        return self.hash.hexdigest()[:16]

    def say(self, *words: object) -> None:
        for word in words:
            text = str(word).encode()
            self.hash.update(b"%d:" % len(text) + text)

    def take(self, value: Any) -> None:
        if isinstance(value, str | Path) and (file := _file_of(value)) is not None:
            self.say("file", hashlib.sha256(file.read_bytes()).hexdigest())
            return
        value = float(value) if isinstance(value, Share) else value  # a default is what it would be if it were given
        self.say(class_name(type(value)))
        match value:
            case None | bool() | int() | float() | complex() | str() | bytes() | Path() | enum.Enum() | slice():
                self.say(repr(value))
            case torch.dtype() | torch.device() | np.dtype() | np.generic():
                self.say(repr(value))
            case Tensor():
                raw = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
                self.say(value.dtype, tuple(value.shape))
                self.hash.update(raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
            case np.ndarray() if value.dtype != object:
                self.say(value.dtype, value.shape)
                self.hash.update(np.ascontiguousarray(value).tobytes())
            case list() | tuple():
                self.say(len(value))
                for each in value:
                    self.take(each)
            case AbstractSet():
                self.say(*sorted(digest(each) for each in value))
            case _:
                self.say(self._remembered(value))

    def _remembered(self, value: Any) -> str:
        """An object's own hash, worked out once; inside itself it is known by its class."""
        if id(value) not in self.memory:
            self.memory[id(value)] = (value, "itself")  # held, so that no other object gets its id
            reader = _Reader(self.strict, self.memory)
            reader._object(value)
            self.memory[id(value)] = (value, str(reader))
        return self.memory[id(value)][1]

    def _object(self, value: Any) -> None:
        match value:
            case Mapping():
                for key in value:
                    self.take(key)
                    self.take(value[key])
            case nn.Module():
                value = getattr(value, "_orig_mod", value)
                self.say(*_parts(value, self.strict, self.memory).items())
            case type():
                self.code_of(value)
            case types.FunctionType():
                self._function(value)
            case types.BuiltinFunctionType() | types.ModuleType():
                self.say(getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))
            case types.MethodType():
                self.take((value.__self__, value.__func__))
            case functools.partial():
                self.take((value.func, value.args, value.keywords))
            case staticmethod() | classmethod():
                self.take(value.__func__)
            case property() | functools.cached_property():
                self.take(getattr(value, "fget", None) or getattr(value, "func", None))
            case _ if is_dataclass(value):
                self.take(type(value))
                self.take([(item.name, getattr(value, item.name)) for item in fields(value) if item.compare])
            case _:
                self.take(type(value))
                self._state(value)

    def _state(self, value: Any) -> None:
        """What pickling would keep of an object."""
        try:
            _, *kept = value.__reduce_ex__(2)
        except Exception:  # whatever somebody else's object raises
            self.say(*((_PROCESS, id(value)) if self.strict else ()))
            return
        self.take(
            [each if isinstance(each, tuple | Mapping) else list(each or ()) for each in kept if each is not None]
        )

    def code_of(self, kind: type) -> None:
        """A class by its name and, where it is no library's, by what it and its bases are made of."""
        for base in kind.__mro__:
            self.say(class_name(base))
            if _of_a_library(base.__module__):
                continue
            for name, value in sorted(vars(base).items()):
                own = isinstance(value, types.FunctionType) or not (name.startswith("__") or name == "_abc_impl")
                if own:  # and nothing that Python keeps there for itself
                    self.say(name)
                    self.take(value)

    def _function(self, function: types.FunctionType) -> None:
        self.say(_room(function.__module__ or ""), function.__qualname__)
        if _of_a_library(function.__module__ or ""):  # none of code that was run in no module
            return
        self.say(_source(function.__code__))
        closure = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
        self.take((function.__defaults__, function.__kwdefaults__, closure))
        for name, found in _asked(function):
            self.say(name)
            self.take(found)


_PROCESS = os.urandom(8).hex()
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_OF_TORCH = frozenset(vars(nn.Module()))
_TOLD = (int, float, complex, str, tuple, list, dict, np.ndarray, Tensor, nn.Module, types.FunctionType, type)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds besides weights, buffers and other modules, and what is hooked into its forward pass."""
    if isinstance(module, torch.jit.ScriptModule):  # whose Python object is new at every reading
        try:
            code, constants = module.code_with_constants
        except (AttributeError, RuntimeError):  # a list of modules, which has no forward pass
            return {}
        return {"code": code, "constants": list(constants.const_mapping.values())}
    own = {
        name: value
        for name, value in sorted(vars(module).items())
        if name not in _OF_TORCH and not isinstance(value, Description)
    }
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return {**own, "hooks": list(hooks)} if hooks else own


def class_name(kind: type) -> str:
    """`module:Class`; of Steelman's own classes only the room, so that a file that moves changes no identity."""
    return f"{_room(kind.__module__)}:{kind.__qualname__}"


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2]) if module.startswith("steelman.") else module


def _file_of(value: str | Path) -> Path | None:
    """The file whose content a path stands for."""
    text = os.fspath(value)
    if isinstance(value, str) and ("\n" in text or "\0" in text):
        return None
    path = Path(text)
    named = isinstance(value, Path) or os.sep in text or bool(path.suffix)  # no word that happens to be a file's name
    try:
        if (path / CHECKPOINT).is_file():
            return path / CHECKPOINT
        return path if named and path.is_file() else None
    except OSError:  # longer than any path
        return None


@functools.cache
def _of_a_library(module: str) -> bool:
    """Whether code is known by its name: Steelman's own, Python's, or an installed package's."""
    root = module.partition(".")[0]
    if root in {"steelman", "torch", "builtins"} or root in sys.stdlib_module_names - {"__main__"}:
        return True
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec is not None else []
    return any(part in str(place) for place in places for part in ("site-packages", "dist-packages"))


def _asked(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function asks of its module, and of the user's other modules: values and code."""
    names = dict.fromkeys(_names(function.__code__))
    for name in names:
        found = function.__globals__.get(name)
        if isinstance(found, types.ModuleType) and not _of_a_library(found.__name__):
            inside = vars(found)
            yield from ((f"{name}.{each}", inside[each]) for each in names if isinstance(inside.get(each), _TOLD))
        elif isinstance(found, _TOLD):
            yield name, found


def _names(code: types.CodeType) -> Iterator[str]:
    """All names in a function, and in the functions and comprehensions within it."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _names(each)


@functools.cache
def _source(code: types.CodeType) -> str:
    """A function's source without comments and docstring; where there is none, and of a lambda, its bytecode."""
    if code.co_name != "<lambda>":
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
            body = getattr(tree.body[0], "body", [])
            if len(body) > 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                del body[0]
            return ast.unparse(tree)
        except (OSError, SyntaxError, IndexError, TypeError):
            pass
    inner = [_source(each) if isinstance(each, types.CodeType) else repr(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {inner}"

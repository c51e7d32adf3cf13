"""Digests of models, attacks and images: of everything that decides their answers."""

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
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelman.naming import identifying
from steelman.types import Description, Images, Labels, Share

CHECKPOINT = "best.safetensors"
"""The file that is hashed of a run's folder."""

LEVELS = 65535 * 16
"""Pixels are hashed as whole multiples of 1 / LEVELS. Those of 8 and of 16 bits are such multiples, so that a division
that rounds otherwise, as on a GPU, leaves the hash as it is."""

_PIECE = 2**21
"""Numbers at once."""


def digest(value: object) -> str:
    """A hash of a value and of everything in it: numbers, tensors, modules, functions with their code, files' content.

    Of a path, also as text, the file's bytes are hashed; of a run's folder, its best checkpoint; of a dataclass, the
    fields that are compared; of the code of libraries, the name.
    """
    return _digest(value)


def _digest(value: object, strict: bool = True) -> str:
    hasher = _Hasher(strict)
    hasher.add(value)
    return str(hasher)


def model_parts(model: object) -> dict[str, str]:
    """Digests of all that decides a model's answers, by part.

    `classes` (names and structure), their `code` (as source, where there is one), `weights`, `buffers` (persistent or
    not), and `attributes`: all else that the modules hold, and hooks. Of another callable than a module, `code`.
    """
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    return _parts(model, False, {}) if isinstance(model, nn.Module) else {"code": _digest(model, strict=False)}


def _parts(model: nn.Module, strict: bool, memory: dict[int, tuple[object, str]]) -> dict[str, str]:
    parts = {name: _Hasher(strict, memory) for name in ("classes", "code", "weights", "buffers", "attributes")}
    for name, module in model.named_modules():
        parts["classes"].write(name, class_name(type(module)))
        parts["code"].add(type(module))
        for kind, values in (("weights", module._parameters), ("buffers", module._buffers)):
            for key, value in values.items():
                parts[kind].add((f"{name}.{key}", value))
        parts["attributes"].add([name, *_attributes(module).items()])
    return {name: str(hasher) for name, hasher in parts.items()}


def image_digests(x: Images, y: Labels) -> np.ndarray:
    """One int64 for each image: a hash of its pixels, to within 1 / 2,097,120, of its shape and of its label."""
    shape, labels = repr(tuple(x.shape[1:])), iter(y.tolist())
    hashes = [
        hashlib.blake2b(image.tobytes(), key=f"{shape} {label}".encode()[:64], digest_size=8).digest()
        for part in x.detach().split(1 + _PIECE // max(1, x[:1].numel()))  # several copies of a part are made
        for image, label in zip(_levels(part), labels, strict=False)
    ]
    return np.frombuffer(b"".join(hashes), np.int64).copy()


def _levels(x: Images) -> np.ndarray:
    return (x.cpu().float() * LEVELS).round().clamp(-(2**30), 2**30).to(torch.int32).numpy()


def without_address(text: str) -> str:
    """A repr that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


class _Hasher:
    """Adds values to one hash.

    Of an object that Python cannot take apart, only the class is known. Where that is not enough (`strict`), it is like
    no other object, and like itself only while this process runs.
    """

    def __init__(self, strict: bool = True, memory: dict[int, tuple[object, str]] | None = None) -> None:
        self.hash = hashlib.sha256()
        self.strict = strict
        self.memory = {} if memory is None else memory

    def __str__(self) -> str:
        return self.hash.hexdigest()[:16]

    def write(self, *words: object) -> None:
        for word in words:
            text = str(word).encode()
            self.hash.update(b"%d:" % len(text) + text)

    def add(self, value: Any) -> None:
        if isinstance(value, str | Path) and (file := _file_of(value)) is not None:
            self.write("file", hashlib.sha256(file.read_bytes()).hexdigest())
            return
        value = float(value) if isinstance(value, Share) else value  # a default length is hashed as one that is given
        self.write(class_name(type(value)))
        match value:
            case None | bool() | int() | float() | complex() | str() | bytes() | Path() | enum.Enum() | slice():
                self.write(repr(value))
            case torch.dtype() | torch.device() | np.dtype() | np.generic():
                self.write(repr(value))
            case Tensor():
                raw = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
                self.write(value.dtype, tuple(value.shape))
                self.hash.update(raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
            case np.ndarray() if value.dtype != object:
                self.write(value.dtype, value.shape)
                self.hash.update(np.ascontiguousarray(value).tobytes())
            case list() | tuple():
                self.write(len(value))
                for each in value:
                    self.add(each)
            case AbstractSet():
                self.write(*sorted(digest(each) for each in value))
            case _:
                self.write(self._remembered(value))

    def _remembered(self, value: Any) -> str:
        """An object's own hash, computed once; inside itself it is known by its class."""
        if id(value) not in self.memory:
            self.memory[id(value)] = (value, "itself")  # kept, so that no other object gets its id
            hasher = _Hasher(self.strict, self.memory)
            hasher._object(value)
            self.memory[id(value)] = (value, str(hasher))
        return self.memory[id(value)][1]

    def _object(self, value: Any) -> None:
        match value:
            case Mapping():
                for key in value:
                    self.add(key)
                    self.add(value[key])
            case nn.Module():
                self.write(*_parts(getattr(value, "_orig_mod", value), self.strict, self.memory).items())
            case type():
                self._class(value)
            case types.FunctionType():
                self._function(value)
            case types.BuiltinFunctionType() | types.ModuleType():
                self.write(getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))
            case types.MethodType():
                self.add((value.__self__, value.__func__))
            case functools.partial():
                self.add((value.func, value.args, value.keywords))
            case staticmethod() | classmethod():
                self.add(value.__func__)
            case property() | functools.cached_property():
                self.add(getattr(value, "fget", None) or getattr(value, "func", None))
            case _ if is_dataclass(value):
                self.add(type(value))
                self.add([(item.name, getattr(value, item.name)) for item in identifying(value) if item.compare])
            case _:
                self.add(type(value))
                self._state(value)

    def _state(self, value: Any) -> None:
        """What pickling would keep of an object."""
        try:
            _, *kept = value.__reduce_ex__(2)
        except Exception:  # any, from another library's object
            self.write(*((_PROCESS, os.getpid(), id(value)) if self.strict else ()))  # a fork has the same _PROCESS
            return
        self.add([each if isinstance(each, tuple | Mapping) else list(each or ()) for each in kept if each is not None])

    def _class(self, kind: type) -> None:
        """A class by its name and, where it is no library's, by the members of it and its bases."""
        for base in kind.__mro__:
            self.write(class_name(base))
            for name, value in () if _of_a_library(base.__module__) else sorted(vars(base).items()):
                # nothing that Python keeps there for itself
                if isinstance(value, types.FunctionType) or not (name.startswith("__") or name == "_abc_impl"):
                    self.write(name)
                    self.add(value)

    def _function(self, function: types.FunctionType) -> None:
        self.write(_room(function.__module__ or ""), function.__qualname__)
        if _of_a_library(function.__module__ or ""):  # none of code that was run in no module
            return
        self.write(_source(function.__code__))
        closure = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
        self.add((function.__defaults__, function.__kwdefaults__, closure))
        for name, value in _globals_of(function):
            self.write(name)
            self.add(value)


_PROCESS = os.urandom(8).hex()
_OF_TORCH = frozenset(vars(nn.Module()))
_HASHED = (int, float, complex, str, tuple, list, dict, np.ndarray, Tensor, nn.Module, types.FunctionType, type)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds besides weights, buffers and other modules, and the hooks of its forward pass."""
    if isinstance(module, torch.jit.ScriptModule):  # its Python object is new at every access
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
    """The file whose content is hashed for a path."""
    text = os.fspath(value)
    if isinstance(value, str) and ("\n" in text or "\0" in text):
        return None
    path = Path(text)
    named = isinstance(value, Path) or os.sep in text or bool(path.suffix)  # no word that is a file's name by chance
    try:
        if (path / CHECKPOINT).is_file():
            return path / CHECKPOINT
        return path if named and path.is_file() else None
    except OSError:  # longer than any path
        return None


@functools.cache
def _of_a_library(module: str) -> bool:
    """Whether code is known by its name: of Steelman, of Python, or of an installed package."""
    root = module.partition(".")[0]
    if root in {"steelman", "torch", "builtins"} or root in sys.stdlib_module_names - {"__main__"}:
        return True
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec is not None else []
    return any(part in str(place) for place in places for part in ("site-packages", "dist-packages"))


def _globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function uses, and those of the user's other modules: values and code."""
    names = dict.fromkeys(_names(function.__code__))
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, types.ModuleType) and not _of_a_library(value.__name__):
            inside = vars(value)
            yield from ((f"{name}.{each}", inside[each]) for each in names if isinstance(inside.get(each), _HASHED))
        elif isinstance(value, _HASHED):
            yield name, value


def _names(code: types.CodeType) -> Iterator[str]:
    """All names in a function, and in the functions and comprehensions inside it."""
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

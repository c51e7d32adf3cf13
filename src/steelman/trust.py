"""Which Python names are imported: those that this user has written, and those that this user allows.

A name 'module:function' that stands in a file (a recipe, a run, a checkpoint, a sweep) is only text: it is imported
when it lies in what `trusting` allows, or in the `trusted` list of the user's own configuration file. The standard
library is never called, whoever names it.
"""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steelman.decoding import one_line, parse_toml

__all__ = ["Untrusted", "trusting"]

OWN = frozenset({"steelman.adversaries.adversary:generator_of", "steelman.adversaries.generators.advgan:AdvGANCritic"})
"""What checkpoints of this package name: networks of this package alone, from settings that are checked."""

MOST = 1 << 16
"""Bytes of a configuration file; it holds a short list."""

_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


class Untrusted(ValueError):
    """A name in a file that this user has not allowed, or a callable of the standard library."""


@dataclass(frozen=True)
class Allowed:
    """What may be imported: whole names 'module:function', and modules with all that lies below them."""

    names: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()

    def covers(self, name: str) -> bool:
        return name in self.names or self.holds(name.partition(":")[0])

    def holds(self, module: str) -> bool:
        return any(module == each or module.startswith(f"{each}.") for each in self.modules)


_NOTHING = Allowed()
_allowed: ContextVar[Allowed] = ContextVar("allowed", default=_NOTHING)
_file: ContextVar[str] = ContextVar("file", default="")
_reading: ContextVar[bool] = ContextVar("reading", default=False)


@contextmanager
def trusting(*names: str) -> Iterator[None]:
    """Allow names that files mention, while the block runs; `--trust` of the command.

    names  modules, each with all that lies below it ("my_package" is also my_package.models), or single names
           "module:function". Trust what you would run: a file decides which function of it is called, with which
           settings

    Raises:
        ValueError: no name of a module or function, or one of the standard library or of this package.
    """
    for name in names:
        _check(name)
    allowed = _allowed.get()
    single = frozenset(name for name in names if ":" in name)
    with adopted(Allowed(allowed.names | single, allowed.modules | (frozenset(names) - single))):
        yield


@contextmanager
def written(*texts: str) -> Iterator[None]:
    """While the block runs, the names in these texts are allowed: the user has written them (`--set`, `--vary`)."""
    allowed = _allowed.get()
    with adopted(Allowed(allowed.names.union(*map(_NAME.findall, texts)), allowed.modules)):
        yield


def current() -> Allowed:
    """What is allowed here, to be adopted by another process."""
    return _allowed.get()


@contextmanager
def adopted(allowed: Allowed) -> Iterator[None]:
    """While the block runs, this is allowed."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def adopt(allowed: Allowed) -> None:
    """From now on, in this process, this is allowed."""
    _allowed.set(allowed)


@contextmanager
def named_in(file: str | Path) -> Iterator[None]:
    """While the block runs, errors say that names stand in this file."""
    token = _file.set(str(file))
    try:
        yield
    finally:
        _file.reset(token)


@contextmanager
def reading() -> Iterator[None]:
    """While the block runs, objects are made of what a text says, not of what a program's own code does."""
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


def is_reading() -> bool:
    """Whether the object that is being made comes from a text."""
    return _reading.get()


def imported(name: str, *, from_file: bool) -> Any:
    """What `module:name` means.

    from_file  the name stands in a file, so it has to be allowed; else the user has written it in this very call

    The working directory is searched last, and only for names that the user has written or allowed in this call.

    Raises:
        Untrusted: not allowed, or of the standard library.
        ValueError: not of that form, no such module, or no such name in it.
    """
    from steelman.naming import nearest  # torch, for which --help does not wait

    module, colon, path = name.partition(":")
    if not (colon and _is_dotted(module) and _is_dotted(path)):
        raise ValueError(f"{name!r} is not of the form 'module:name', such as 'my_package.my_module:my_function'")
    if _is_standard(module):
        raise Untrusted(f"{_told(name)}, of Python's standard library, which is never called by a name")
    here = not from_file or _allowed.get().covers(name) or name in OWN
    if not here and not Allowed(modules=configured()).holds(module):
        raise Untrusted(_refusal(name, module))
    found = _import(name, module, here)
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{name!r}: {part!r} is not there; {nearest(part, vars(found))}{_shadowed(module)}")
        found = getattr(found, part)
    if callable(found):
        _check_home(name, found, from_file)
    return found


def configured() -> frozenset[str]:
    """The modules that the user's own configuration file allows.

    Raises:
        ValueError: the file is not TOML, too large, or has anything but a list of modules `trusted`.
    """
    file = configuration()
    if not file.is_file():
        return frozenset()
    with file.open("rb") as stream:
        raw = stream.read(MOST + 1)
    if len(raw) > MOST:
        raise ValueError(f"{file} is longer than {MOST} bytes, and it holds a short list: trusted = ['my_package']")
    try:
        said = parse_toml(raw.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not TOML: {one_line(error)}") from error
    if strange := next((key for key in said if key != "trusted"), None):
        raise ValueError(f"{file}: there is no setting {strange!r}; there is trusted = ['my_package']")
    names = said.get("trusted", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and ":" not in name for name in names):
        raise ValueError(f"{file}: trusted is a list of modules, such as ['my_package']; got {names!r}")
    for name in names:
        _check(name)
    return frozenset(names)


def configuration() -> Path:
    """The user's own configuration file: $XDG_CONFIG_HOME/steelman/config.toml, else ~/.config/steelman/config.toml."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".config") / "steelman" / "config.toml"


def _check(name: str) -> None:
    module, colon, path = name.partition(":")
    if not _is_dotted(module) or (colon and not _is_dotted(path)):
        raise ValueError(f"{name!r} cannot be trusted: give a module, such as my_package, or 'my_package:my_function'")
    if _is_standard(module):
        raise Untrusted(f"{name!r} cannot be trusted: Python's standard library is never called by a name in a file")
    if module.partition(".")[0] == __package__:
        raise Untrusted(f"{name!r} cannot be trusted: the networks of steelman have names of their own, such as LeNet")


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _is_standard(module: str) -> bool:
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top in sys.builtin_module_names


def _import(name: str, module: str, here: bool) -> Any:
    top = module.partition(".")[0]
    if _spec(top) is None and _in_working_directory(top) is not None:
        if not here:
            raise Untrusted(
                f"{_told(name)}, which lies in the working directory alone, and your configuration means what is "
                f"installed: if you trust {os.path.join(os.getcwd(), top)}, add --trust {module}"
            )
        # It stays there, for what the module imports later and for worker processes. Last: it shadows nothing.
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ValueError(f"{name!r}: no module named {error.name!r} on the Python path or in {os.getcwd()}") from error


def _shadowed(module: str) -> str:
    """The end of a message, where a module in the working directory may have been meant."""
    top = module.partition(".")[0]
    found, here = _spec(top), _in_working_directory(top)
    if found is None or here is None or here.origin is None or found.origin == here.origin:
        return ""
    return f" ({found.origin} comes before {here.origin}: give that one another name)"


def _check_home(name: str, found: Callable[..., Any], from_file: bool) -> None:
    """Raises where a name leads elsewhere: a trusted module may have imported others, as in `my_module:os.system`."""
    while isinstance(found, partial):
        found = found.func
    bound = getattr(found, "__self__", None)
    home = getattr(found, "__module__", None) or getattr(bound, "__module__", None)
    if not isinstance(home, str):
        home = type(found if bound is None else bound).__module__
    leads = f"{home}:{getattr(found, '__qualname__', type(found).__name__)}"
    if _is_standard(home):
        raise Untrusted(
            f"{_told(name)}, which leads to {leads} of Python's standard library, which is never called by a name"
        )
    allowed = _allowed.get()
    if (
        from_file
        and name not in allowed.names | OWN
        and not Allowed(modules=allowed.modules | configured()).holds(home)
    ):
        raise Untrusted(
            f"{_told(name)}, which leads to {leads}: you do not trust that. If it should be called, add --trust {name}"
        )


def _refusal(name: str, module: str) -> str:
    if module.partition(".")[0] == __package__:
        return f"{_told(name)}, and what is part of steelman has a name of its own there, such as LeNet or MLP"
    place = _place(module)
    imports = f"would import {place}" if place else f"would import {module}, which is not found"
    installed = _spec(module.partition(".")[0]) is not None
    always = f", for good by trusted = [{module!r}] in {configuration()}" if installed else ""
    return (
        f"{_told(name)}, which {imports}: if you trust it, allow it by --trust {module}, in Python by steelman.trust."
        f"trusting({module!r}){always}"
    )


def _told(name: str) -> str:
    file = _file.get()
    return f"{file} names {name!r}" if file else repr(name)


def _place(module: str) -> str:
    """The file that an import of the module would run, found without running any; "" where there is none."""
    top, *rest = module.split(".")
    spec = _spec(top) or _in_working_directory(top)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return ""
        spec = PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    if spec is None:
        return ""
    return spec.origin or next(iter(spec.submodule_search_locations or ()), "")


def _spec(top: str) -> ModuleSpec | None:
    try:
        return find_spec(top)
    except (ValueError, ImportError):  # a module without a spec, such as the __main__ of a script
        return sys.modules[top].__spec__ or ModuleSpec(top, None) if top in sys.modules else None


def _in_working_directory(top: str) -> ModuleSpec | None:
    return PathFinder.find_spec(top, [os.getcwd()])

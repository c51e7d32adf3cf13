"""Which Python names are imported: those that this user has written, and those that this user allows.

A name 'module:function' in a file (a recipe, a run, a checkpoint, a sweep) is only text: it is imported when it lies in
what `trusting` allows, or in the `trusted` list of the user's own configuration file. The standard library is never
called, in whatever way it is named.
"""

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from steelman.files import parse_toml, reason_of

__all__ = ["Untrusted", "trusting"]

T = TypeVar("T")

OWN = frozenset({"steelman.adversaries.adversary:generator_of", "steelman.adversaries.generators.advgan:AdvGANCritic"})
"""What checkpoints of this package name: networks of this package alone, from settings that are checked."""

MOST = 1 << 16
"""Bytes of a configuration file; it holds a short list."""

_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")

_allowed: ContextVar[frozenset[str]] = ContextVar("allowed", default=frozenset())
"""Names 'module:function', and modules with all that lies below them."""
_file: ContextVar[str] = ContextVar("file", default="")
_reading: ContextVar[bool] = ContextVar("reading", default=False)


class Untrusted(ValueError):
    """A name in a file that this user has not allowed, or a callable of the standard library."""


def trusting(*names: str) -> AbstractContextManager[None]:
    """Allow names that files mention, while the block runs; `--trust` of the command.

    names  modules, each with all that lies below it ("my_package" is also my_package.models), or single names
           "module:function". Trust what you would run: a file decides which function of it is called, with which
           settings

    Raises:
        ValueError: no name of a module or function, or one of the standard library or of this package.
    """
    for name in names:
        _check(name)
    return _during(_allowed, _allowed.get().union(names))


def written(*texts: str) -> AbstractContextManager[None]:
    """While the block runs, the names in these texts are allowed: the user has written them (`--set`, `--vary`)."""
    return _during(_allowed, _allowed.get().union(*map(_NAME.findall, texts)))


def named_in(file: str | Path) -> AbstractContextManager[None]:
    """While the block runs, errors name this file as the one that has the names."""
    return _during(_file, str(file))


def reading() -> AbstractContextManager[None]:
    """While the block runs, objects are made from a text, not by a program's own code."""
    return _during(_reading, True)


def is_reading() -> bool:
    """Whether the object that is being made comes from a text."""
    return _reading.get()


def current() -> frozenset[str]:
    """What is allowed here, to be adopted by another process."""
    return _allowed.get()


def adopt(allowed: frozenset[str]) -> None:
    """From now on, in this process, this is allowed."""
    _allowed.set(allowed)


@contextmanager
def _during(variable: ContextVar[T], value: T) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def imported(name: str, *, from_file: bool) -> Any:
    """What `module:name` means.

    from_file  the name stands in a file, so it has to be allowed; else the user has written it in this very call

    The working directory is searched last, and only for names that the user has written or allowed in this call.

    Raises:
        Untrusted: not allowed, or of the standard library.
        ValueError: not of that form, no such module, or no such name in it.
    """
    from steelman.naming import nearest  # imports torch, which --help does without

    module, colon, path = name.partition(":")
    if not (colon and _is_dotted(module) and _is_dotted(path)):
        raise ValueError(f"{name!r} is not of the form 'module:name', such as 'my_package.my_module:my_function'")
    if _is_standard(module):
        raise Untrusted(f"{_named(name)}, of Python's standard library, which is never called by a name")
    by_this_call = not from_file or name in _allowed.get() | OWN or _covers(_allowed.get(), module)
    if not by_this_call and not _covers(configured(), module):
        raise Untrusted(_refusal(name, module))
    found = _import(name, module, by_this_call)
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
        settings = parse_toml(raw.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not TOML: {reason_of(error)}") from error
    if strange := next((key for key in settings if key != "trusted"), None):
        raise ValueError(f"{file}: there is no setting {strange!r}; there is trusted = ['my_package']")
    names = settings.get("trusted", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and ":" not in name for name in names):
        raise ValueError(f"{file}: trusted is a list of modules, such as ['my_package']; got {names!r}")
    for name in names:
        _check(name)
    return frozenset(names)


def configuration() -> Path:
    """The user's own configuration file: $XDG_CONFIG_HOME/steelman/config.toml, else ~/.config/steelman/config.toml."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".config") / "steelman" / "config.toml"


def _check(name: str) -> None:
    module, colon, path = name.partition(":")
    if not _is_dotted(module) or (colon and not _is_dotted(path)):
        raise ValueError(f"{name!r} cannot be trusted: give a module, such as my_package, or 'my_package:my_function'")
    if _is_standard(module):
        raise Untrusted(f"{name!r} cannot be trusted: Python's standard library is never called by a name in a file")
    if _top(module) == __package__:
        raise Untrusted(f"{name!r} cannot be trusted: the networks of steelman have names of their own, such as LeNet")


def _covers(allowed: frozenset[str], module: str) -> bool:
    """Whether the module, or one above it, is among those that are allowed."""
    parts = module.split(".")
    return any(".".join(parts[:count]) in allowed for count in range(1, len(parts) + 1))


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _is_standard(module: str) -> bool:
    return _top(module) in sys.stdlib_module_names or _top(module) in sys.builtin_module_names


def _import(name: str, module: str, by_this_call: bool) -> Any:
    top = _top(module)
    if _spec(top) is None and _in_working_directory(top) is not None:
        if not by_this_call:
            raise Untrusted(
                f"{_named(name)}, which lies in the working directory alone, and your configuration means what is "
                f"installed: if you trust {os.path.join(os.getcwd(), top)}, add --trust {module}"
            )
        # It stays there, for what the module imports later and for worker processes. Last: it shadows nothing.
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            message = f"no module named {missing!r} on the Python path or in {os.getcwd()}"
        else:
            message = f"its module cannot be imported: {_failed_at(error)}{reason_of(error)}"
        raise ValueError(f"{name!r}: {message}") from error


def _failed_at(error: Exception) -> str:
    """The file and line in which a module that was being imported has failed; a syntax error names them itself."""
    frames = traceback.extract_tb(error.__traceback__)
    own = (__file__, importlib.__file__)
    frames = [each for each in frames if each.filename not in own and not each.filename.startswith("<")]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""


def _check_home(name: str, found: Callable[..., Any], from_file: bool) -> None:
    """Raises where a name leads elsewhere: a trusted module may have imported others, as in `my_module:os.system`."""
    while isinstance(found, partial):
        found = found.func
    bound = getattr(found, "__self__", None)
    home = getattr(found, "__module__", None) or getattr(bound, "__module__", None)
    if not isinstance(home, str):
        home = type(found if bound is None else bound).__module__
    leads = f"{_named(name)}, which leads to {home}:{getattr(found, '__qualname__', type(found).__name__)}"
    if _is_standard(home):
        raise Untrusted(f"{leads} of Python's standard library, which is never called by a name")
    if from_file and name not in _allowed.get() | OWN and not _covers(_allowed.get() | configured(), home):
        raise Untrusted(f"{leads}: you do not trust that. If it should be called, add --trust {name}")


def _refusal(name: str, module: str) -> str:
    if _top(module) == __package__:
        return f"{_named(name)}, and what is part of steelman has a name of its own there, such as LeNet or MLP"
    place, installed = _place(module), _spec(_top(module)) is not None
    imports = f"would import {place}" if place else f"would import {module}, which is not found"
    always = f", for good by trusted = [{module!r}] in {configuration()}" if installed else ""
    return (
        f"{_named(name)}, which {imports}: if you trust it, allow it by --trust {module}, in Python by steelman.trust."
        f"trusting({module!r}){always}"
    )


def _named(name: str) -> str:
    file = _file.get()
    return f"{file} names {name!r}" if file else repr(name)


def _shadowed(module: str) -> str:
    """The end of a message, where a module in the working directory may have been meant."""
    found, here = _spec(_top(module)), _in_working_directory(_top(module))
    if found is None or here is None or here.origin is None or found.origin == here.origin:
        return ""
    return f" ({found.origin} comes before {here.origin}: give that one another name)"


def _place(module: str) -> str:
    """The file that an import of the module would run, without running any; "" where there is none."""
    top, *rest = module.split(".")
    spec = _spec(top) or _in_working_directory(top)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return ""
        spec = PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    return "" if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), "")


def _spec(top: str) -> ModuleSpec | None:
    try:
        return find_spec(top)
    except (ValueError, ImportError):  # a module without a spec, such as the __main__ of a script
        return sys.modules[top].__spec__ or ModuleSpec(top, None) if top in sys.modules else None


def _in_working_directory(top: str) -> ModuleSpec | None:
    return PathFinder.find_spec(top, [os.getcwd()])

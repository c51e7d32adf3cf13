"""Types and shapes are checked at every call of the package while tests run.

`jaxtyping.jaxtyped` with a type checker binds each call to its signature and checks arguments twice, also where no
array is among them, which made tests of attacks take two and a half times as long. So each function is checked by
beartype once; and where arrays are among its annotations, within a context of jaxtyping, in which equal names of axes
mean equal lengths.
"""

import dataclasses
import functools
import inspect
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

import jaxtyping
from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(violation_type=TypeError))
_context = jaxtyping.jaxtyped("context")


def install() -> None:
    """For the whole process, and before the first import of steelman."""
    jaxtyping.install_import_hook("steelman", "beartype.beartype")
    patch("jaxtyping.jaxtyped", lambda *, typechecker: checked).start()


def checked(what: Any) -> Any:
    if inspect.isclass(what):
        if dataclasses.is_dataclass(what) and "__init__" in vars(what):
            what.__init__ = checked(what.__init__)
        return what
    as_written = what.__annotations__
    what.__annotations__ = {name: _resolved(each, what.__globals__) for name, each in as_written.items()}
    has_arrays = any(map(_is_array, what.__annotations__.values()))
    plain = _check(what)
    what.__annotations__ = as_written
    if plain is what or (has_arrays and inspect.isgeneratorfunction(what)):  # a generator runs outside of its call
        return what

    @functools.wraps(what)
    def call(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return what(*args, **kwargs)
        if not has_arrays:
            return plain(*args, **kwargs)
        with _context:
            return plain(*args, **kwargs)

    return call


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    """What is imported for type checkers alone, and a class within its own body, cannot be checked."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"it": annotation}), names, include_extras=True)["it"]
    except Exception:
        return Any


def _is_array(annotation: Any) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(_is_array, get_args(annotation)))

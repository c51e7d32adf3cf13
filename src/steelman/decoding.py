"""Reading files that others wrote: what a library raises over a damaged file becomes a ValueError of one line."""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEEPEST = 100
"""How deep TOML and JSON may be nested: nothing that is written here is deeper than 20."""

SMALL, RATIO = 2**26, 200
"""A compressed file may unpack to 64 MiB, or to so many times its own size; images do not shrink further."""

_LONGEST = 300


@contextmanager
def decoding(
    path: object, what: str, remedy: str = "It may be truncated or damaged: save or fetch it again"
) -> Iterator[None]:
    """Name the file, and what it should be, in place of what a library raises over a damaged one.

    Libraries promise no type of exception for a damaged file, so each type is taken, lack of memory and recursion
    included; errors of the operating system are left as they are. Put library calls alone into the block.

    Raises:
        ValueError: one line, with the library's own message.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a seek before the start
            raise
        raise ValueError(f"{path} is not {what}: {one_line(error).rstrip('.')}. {remedy}") from error


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks and control characters, shortened; with the error's type where the
    message alone says little."""
    said = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(str(error).split()))
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]} [...]"
    plain = isinstance(error, ValueError | OSError | RuntimeError) and not isinstance(error, UnicodeError)
    return said if said and plain else f"{type(error).__name__}: {said}".removesuffix(": ")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, or nested too deep.
    """
    try:
        return _shallow(json.loads(text))
    except RecursionError as error:
        raise ValueError(_DEEP) from error


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: not TOML, or nested too deep.
    """
    import tomllib

    try:
        return _shallow(tomllib.loads(text))
    except RecursionError as error:
        raise ValueError(_DEEP) from error


def read_json(path: Path, what: str) -> Any:
    """The value in a JSON file; `what` it should be, for the error.

    Raises:
        OSError, ValueError: it cannot be read, or is not JSON.
    """
    with decoding(path, what):
        return parse_json(path.read_bytes())


def refuse_bomb(size: int, stored: int) -> None:
    """Raises ValueError where `stored` bytes would unpack to `size` bytes, which no file of images or weights does."""
    if size > max(SMALL, RATIO * stored):
        raise ValueError(f"its {stored:,} bytes claim to hold {size:,} bytes, more than {RATIO} times as many")


_DEEP = f"it is nested more than {DEEPEST} deep"


def _shallow(value: Any) -> Any:
    """The value, unless it is nested too deep for what walks through it by recursion."""
    level = [value]
    for _ in range(DEEPEST):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [item for items in inner for item in items]
        if not level:
            return value
    raise ValueError(_DEEP)

"""Files that are written whole or not at all, folders that one process uses at a time, and files that others wrote."""

import errno
import hashlib
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
"""How the name of a file ends that is still being written."""
ROOM = 4 * 2**20
"""Bytes that have to be free on a disk before work begins, whatever it will write."""
REPORT = 16 * 2**20
"""Bytes that a report with its tables and pictures may take."""
UNSEALED = "0" * 64
"""In place of a file's hash within it, until that is known."""
DEEPEST = 100
"""How deep TOML and JSON may be nested: nothing that is written here is deeper than 20."""
SMALL, RATIO = 2**26, 200
"""A compressed file may unpack to 64 MiB, or to so many times its own size; images do not shrink further."""

_LONGEST = 300


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` when the block ends without an error.

    Its name contains the process id, so that two writers never share one. It has the permissions of any new file of the
    user, whatever the writer gives it, and is on the disk before it replaces the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        os.chmod(partial, mode)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sha256(content: bytes | str) -> str:
    """The hash of a file's content or of a text, as `sha256sum` prints it. `steelman.identity.digest` hashes values."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def sealed(raw: bytes) -> bytes:
    """A file with its own hash in place of the `UNSEALED` in it."""
    return raw.replace(UNSEALED.encode(), sha256(raw).encode(), 1)


def is_whole(raw: bytes, seal: str) -> bool:
    """Whether a file has that hash: no byte has changed since it was sealed."""
    return sha256(raw.replace(seal.encode(), UNSEALED.encode(), 1)) == seal


def writable(folder: Path, needed: int = 0) -> None:
    """Try to write in a folder before work begins whose results will be written there; no file is left behind.

    folder  where it does not exist yet, the nearest folder above it is tried, in which it will be made
    needed  bytes, about; `ROOM` more are kept free for small files

    Raises:
        OSError: it cannot be made or written, or the disk is full; the message says which, and what to do.
    """
    import shutil
    import tempfile

    above = next((each for each in (folder, *folder.absolute().parents) if each.exists()), Path())
    if not above.is_dir():
        raise NotADirectoryError(f"nothing can be written to {folder}, since {above} is a file: give another folder")
    try:
        total, _, free = shutil.disk_usage(above)
        if total and free < needed + ROOM:  # some file systems do not know, and have 0 of 0
            raise OSError(
                f"only {_megabytes(free)} are free at {above}, and {_megabytes(needed + ROOM)} may be needed: make "
                "room, or give another folder"
            )
        with tempfile.TemporaryFile(dir=above) as file:  # without a name, so that a kill leaves no file
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(f"nothing can be written to {folder} ({error.strerror}): give another folder") from error


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.3g} MB" if count < 2**30 else f"{count / 2**30:.3g} GB"


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Lock a folder while the block runs. A second process waits, with a warning that names the first.

    The lock is the operating system's and ends with its process, however that ends. The same process may lock a folder
    several times. Half-written files of dead processes are removed.

    Raises:
        ValueError: a lock in the folder is a symbolic link, through which another file would be overwritten.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    for link in (folder / ".lock", folder / ".lock.json"):
        if link.is_symlink():
            raise ValueError(f"{link} is a symbolic link, which nothing here makes: remove it")
    lock, holder = FileLock(folder / ".lock", is_singleton=True), folder / ".lock.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        warnings.warn(
            f"{folder} is in use by {_holder(holder)}: waiting until that ends. Stop it, or give another folder, in "
            "order not to wait",
            stacklevel=4,
        )
        lock.acquire(poll_interval=0.2)
    try:
        if lock.lock_counter == 1:
            for partial in folder.glob(f"*{PARTIAL}"):
                partial.unlink(missing_ok=True)
            holder.write_text(json.dumps({"process": os.getpid(), "host": platform.node(), "command": command()}))
        yield
    finally:
        if lock.lock_counter == 1:
            holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    """The process that uses a folder, as its lock describes it."""
    try:
        lock = json.loads(path.read_text())
        since = datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "minutes")
        return f"process {lock['process']} on {lock['host']} since {since} ({lock['command']})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def command() -> str:
    """The command line of this process."""
    import shlex

    name, *arguments = sys.argv
    return shlex.join([Path(name).name, *arguments])


@contextmanager
def decoding(
    path: object, what: str, remedy: str = "It may be truncated or damaged: save or fetch it again"
) -> Iterator[None]:
    """Turn what a library raises over a damaged file into a ValueError of one line that names the file.

    Libraries promise no type of exception for a damaged file, so every type is caught, lack of memory and recursion
    included; errors of the operating system are left as they are. Put library calls alone into the block.

    what  the file should be, such as "an IDX file"

    Raises:
        ValueError: one line, with the library's own message.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a seek before the start
            raise
        raise ValueError(f"{path} is not {what}: {reason_of(error).rstrip('.')}. {remedy}") from error


def reason_of(error: BaseException) -> str:
    """The message of an error without line breaks and control characters, shortened; with the error's type where the
    message alone says little."""
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(str(error).split()))
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [...]"
    clear = isinstance(error, ValueError | OSError | RuntimeError) and not isinstance(error, UnicodeError)
    return text if text and clear else f"{type(error).__name__}: {text}".removesuffix(": ")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError where it is not JSON, or nested too deep."""
    return _parsed(json.loads, text)


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text; ValueError where it is not TOML, or nested too deep."""
    import tomllib

    return _parsed(tomllib.loads, text)


def _parsed(parse: Callable[[Any], Any], text: str | bytes) -> Any:
    """A value that is not nested too deep for functions that walk through it by recursion."""
    with suppress(RecursionError):
        value = parse(text)
        level = [value]
        for _ in range(DEEPEST):
            inner = (
                each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)
            )
            level = [item for items in inner for item in items]
            if not level:
                return value
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def refuse_bomb(size: int, stored: int) -> None:
    """Raises ValueError where `stored` bytes would unpack to `size` bytes, which no file of images or weights does."""
    if size > max(SMALL, RATIO * stored):
        raise ValueError(f"its {stored:,} bytes claim to hold {size:,} bytes, more than {RATIO} times as many")

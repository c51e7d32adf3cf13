"""Files that are written whole or not at all, and folders in which one process works at a time."""

import hashlib
import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

PARTIAL = ".partial"
"""How the name of a file ends that is still being written."""
UNSEALED = "0" * 64
"""In place of a file's hash within it, until that is known."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which takes the place of `path` when the block ends without an error.

    Its name carries the process, so that two writers never share one. It has the permissions of any new file of the
    user, whatever the writer gives it, and is on the disk before it takes its place.
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


def sealed(raw: bytes) -> bytes:
    """A file with its own hash in place of the `UNSEALED` in it."""
    return raw.replace(UNSEALED.encode(), hashlib.sha256(raw).hexdigest().encode(), 1)


def is_whole(raw: bytes, seal: str) -> bool:
    """Whether a file has that hash: no byte has changed since it was sealed."""
    return hashlib.sha256(raw.replace(seal.encode(), UNSEALED.encode(), 1)).hexdigest() == seal


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Hold a folder while the block runs. A second process waits, with a warning that names the first.

    The lock is the operating system's and ends with its process, however that ends. The same process may hold a folder
    several times. What dead processes have left half written is removed.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
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
            for left in folder.glob(f"*{PARTIAL}"):
                left.unlink(missing_ok=True)
            holder.write_text(json.dumps({"process": os.getpid(), "host": platform.node(), "command": command()}))
        yield
    finally:
        if lock.lock_counter == 1:
            holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    """Who works in a folder, as far as its lock tells."""
    try:
        said = json.loads(path.read_text())
        since = datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "minutes")
        return f"process {said['process']} on {said['host']} since {since} ({said['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def command() -> str:
    """The command line of this process."""
    import shlex

    name, *arguments = sys.argv
    return shlex.join([Path(name).name, *arguments])

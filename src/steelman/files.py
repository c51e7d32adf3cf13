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
ROOM = 4 * 2**20
"""Bytes that have to be free on a disk before work begins, whatever it will write."""
REPORT = 16 * 2**20
"""Bytes that a report with its tables and pictures may take."""
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


def writable(folder: Path, needed: int = 0) -> None:
    """Try to write in a folder before work begins, of which the results will go there; nothing is left behind.

    folder  where it is not there yet, it will be made in the nearest folder above it, and that one is tried
    needed  bytes, about; `ROOM` more are kept free for what is small

    Raises:
        OSError: it cannot be made or written, or the disk has no room; the message says which, and what to do.
    """
    import shutil
    import tempfile

    above = next((each for each in (folder, *folder.absolute().parents) if each.exists()), Path())
    if not above.is_dir():
        raise NotADirectoryError(f"nothing can be written to {folder}, since {above} is a file: give another folder")
    try:
        total, _, free = shutil.disk_usage(above)
        if total and free < needed + ROOM:  # some file systems do not tell, and have 0 of 0
            raise OSError(
                f"only {_megabytes(free)} are free at {above}, and {_megabytes(needed + ROOM)} may be needed: make "
                "room, or give another folder"
            )
        with tempfile.TemporaryFile(dir=above) as file:  # without a name, so that a kill leaves nothing
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
    """Hold a folder while the block runs. A second process waits, with a warning that names the first.

    The lock is the operating system's and ends with its process, however that ends. The same process may hold a folder
    several times. What dead processes have left half written is removed.

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
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def command() -> str:
    """The command line of this process."""
    import shlex

    name, *arguments = sys.argv
    return shlex.join([Path(name).name, *arguments])

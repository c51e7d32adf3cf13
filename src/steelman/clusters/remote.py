"""What runs in a Dask worker. Dask's scheduler imports this file too, so that it imports no PyTorch."""

import os
import pickle
import platform
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from multiprocessing import current_process
from pathlib import Path
from typing import Any

from steelman.failures import warned
from steelman.trust import adopt
from steelman.workers import arrived

_one = threading.Lock()
"""One piece of work at a time in a process: two in threads would change a model's mode under each other."""


@dataclass(frozen=True)
class Setting:
    """What a piece of work finds as if it ran where it was sent from.

    folder    the working directory, where there is one of that name
    allowed   the names that are trusted
    plainly   whether warnings are one line each
    path      what Python searches, after a worker's own path
    device    STEELMAN_DEVICE
    versions  of what must be the same
    """

    folder: str
    allowed: frozenset[str]
    plainly: bool
    path: tuple[str, ...]
    device: str | None
    versions: dict[str, str]


class _RemoteTraceback(Exception):
    """The traceback of another process, as `concurrent.futures` shows it."""

    def __str__(self) -> str:
        return self.args[0]


@dataclass(frozen=True)
class Failure:
    """An exception, with its traceback as text."""

    error: BaseException
    trace: str

    def raised(self) -> BaseException:
        self.error.__cause__ = _RemoteTraceback(f'\n"""\n{self.trace}"""')
        return self.error


@cache
def versions() -> dict[str, str]:
    """What must be the same in all processes: of PyTorch the version, but not the build for a GPU."""
    found = {name: version(name).partition("+")[0] for name in ("steelman", "torch", "numpy")}
    return {**found, "python": f"{sys.version_info.major}.{sys.version_info.minor}"}


def kept(digest: str, raw: bytes) -> tuple[str, bytes]:
    """A value for several jobs: as a task's result it is copied to a worker once, and made again where it is lost."""
    return digest, raw


def run(setting: Setting, work: bytes, *shared: tuple[str, bytes]) -> tuple[bytes, list[tuple[str, type[Warning]]]]:
    """Do a piece of work, and return its pickled result, or `Failure`, with the warnings."""
    with _one, warnings.catch_warnings(record=True) as caught:
        try:
            with _as_there(setting):
                arrived.update(shared)
                call, arguments, options = pickle.loads(work)
                found = pickle.dumps(call(*arguments, **options))
        except BaseException as error:
            found = _failure(error)
        finally:
            arrived.clear()
    said = {str(each.message): each.category for each in caught}
    return found, [(text, kind if kind.__module__ == "builtins" else UserWarning) for text, kind in said.items()]


def _failure(error: BaseException) -> bytes:
    trace = "".join(traceback.format_exception(error))
    try:
        raw = pickle.dumps(Failure(error, trace))
        pickle.loads(raw)  # some exceptions cannot be made again
        return raw
    except Exception:
        return pickle.dumps(Failure(RuntimeError(f"{type(error).__name__}: {error}"), trace))


@contextmanager
def _as_there(setting: Setting) -> Iterator[None]:
    """The state of the process in which a piece of work is done."""
    if different := {name: text for name, text in versions().items() if setting.versions.get(name) != text}:
        here = ", ".join(f"{name} {text} instead of {setting.versions.get(name)}" for name, text in different.items())
        raise ValueError(f"a worker ({platform.node()}) has {here}: install the same versions everywhere")
    import torch

    adopt(setting.allowed)
    if setting.plainly:
        warnings.formatwarning = warned
    if setting.device is not None:
        os.environ["STEELMAN_DEVICE"] = setting.device
    sys.path += [each for each in setting.path if each not in sys.path and os.path.exists(each)]  # it shadows nothing
    current_process()._config.pop("daemon", None)  # pyright: ignore  # a nanny's process may not have children
    torch.set_num_threads(_threads())
    if torch.cuda.is_available():
        torch.cuda.set_device(gpu(torch.cuda.device_count()))  # of this thread
    before = os.getcwd()
    with suppress(OSError):  # a machine without that folder
        os.chdir(setting.folder)
    try:
        yield
    finally:
        os.chdir(before)


def _threads() -> int:
    """The threads that Dask gives this worker, all for the one piece of work."""
    from distributed import get_worker

    return get_worker().state.nthreads


@cache
def gpu(count: int, folder: str = "") -> int:
    """Which of the GPUs that this process sees is its own: one that the fewest processes of this machine have taken.

    Locks that end with their process say which are taken.
    """
    from filelock import FileLock, Timeout

    place = Path(folder or tempfile.gettempdir()) / f"steelman-gpus-{getattr(os, 'getuid', int)()}"
    place.mkdir(mode=0o700, exist_ok=True)
    for others in range(1000):
        for number in range(count):
            lock = FileLock(place / f"{_uuid(number)}-{others}.lock", thread_local=False)
            with suppress(Timeout):
                lock.acquire(timeout=0)
                _held.append(lock)
                return number
    return 0


_held: list[Any] = []


def _uuid(number: int) -> str:
    """Of a GPU, as CUDA_VISIBLE_DEVICES may give it another number in each process."""
    import torch

    try:
        return str(torch.cuda.get_device_properties(number).uuid)
    except (AttributeError, RuntimeError, AssertionError):
        return str(number)

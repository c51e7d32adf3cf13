"""Independent jobs on several processes or machines."""

import hashlib
import math
import os
import pickle
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from steelman.failures import warned
from steelman.trust import adopt, current

T = TypeVar("T")

SEEN = 10.0
"""Seconds in which a new file must be seen on other machines."""
IMPORTED = ("steelman.evaluation",)
"""What is imported once for all processes."""
OPENED = 2
"""How many values that several jobs share a process keeps: of two evaluations at once, say."""


class ClusterLost(ConnectionError):
    """Work cannot go on where it was sent; what is finished is kept."""


def cores() -> int:
    """The cores that this process may use: those of its affinity, and no more than its control group's quota."""
    if count := getattr(os, "process_cpu_count", None):  # Python 3.13
        allowed = count()
    else:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([allowed or 1, *(math.ceil(quota) for quota in _quotas(Path("/")))]))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas, in cores, of this process's control groups and of those above them (version 2 and 1)."""
    groups = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / "cpu" if controllers else groups  # in a container, often without the path that is named
        place = top / path.strip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(top):
                yield from _quota(folder, bool(controllers))


def _quota(folder: Path, first: bool) -> Iterator[float]:
    with suppress(OSError, ValueError, ZeroDivisionError):  # not set there, or "max"
        if first:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        else:
            quota, period = (folder / "cpu.max").read_text().split()
        if int(quota) > 0:
            yield int(quota) / int(period)


def workers(count: int) -> Executor | None:
    """`count` processes, each with its share of the cores, and a GPU of its own where there are GPUs; None for one.

    Any `concurrent.futures.Executor` can be used instead, such as that of `steelman.clusters.connected`. Close it
    (`with`), so that the processes end; they also end when this one does, however that ends.

    Raises:
        ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"workers are counted from 1; got {count}")
    if count == 1:
        return None
    context = _context()
    with safe_path():
        places = context.Queue()
        for place in range(count):
            places.put(place)
        interruptible = signal.getsignal(signal.SIGINT) != signal.SIG_IGN
        folder = tempfile.mkdtemp(prefix="steelman-")
        plainly = warnings.formatwarning is warned
        arguments = (places, count, current(), interruptible, plainly, folder, dict(os.environ))
        return _Workers(folder, count, context, _begin, arguments)


def _context() -> Any:
    """How processes start. A process with CUDA or threads must not be forked, and this may be one.

    On Linux they are forks of a process that imports PyTorch and this package once for all of them, and does nothing
    else. It ends with this one. Elsewhere each imports them itself.
    """
    if sys.platform != "linux":  # macOS's own libraries do not bear a fork
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


class _Workers(ProcessPoolExecutor):
    """Values that jobs share lie in files of a temporary folder, which each process reads once."""

    def __init__(self, folder: str, count: int, context: Any, *arguments: Any) -> None:
        super().__init__(count, context, *arguments)
        self.folder, self.context = folder, context

    @contextmanager
    def share(self, value: Any) -> "Iterator[Sent]":
        raw = pickle.dumps(value)
        handle, path = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        try:
            yield Sent(hashlib.sha256(raw).hexdigest(), path)
        finally:
            os.unlink(path)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        shutil.rmtree(self.folder, ignore_errors=True)

    def submit(self, *call: Any, **options: Any) -> Future:
        if self._processes == {} and self.context.get_start_method() == "forkserver":
            from multiprocessing import forkserver

            with safe_path(), uninterrupted():
                forkserver.ensure_running()
            with safe_path():  # one that needs nothing of this pool waits for the imports, and may be interrupted
                self.context.Process(target=int, daemon=True).start()
        with safe_path(), uninterrupted():  # this starts processes
            return super().submit(*call, **options)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """After an interrupt, jobs that run are stopped: finished blocks are kept, and the next call continues."""
        if isinstance(error, KeyboardInterrupt):
            processes = list((self._processes or {}).values())
            self.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
        self.shutdown()


@contextmanager
def safe_path() -> Iterator[None]:
    """Python processes that are started in the block do not search the working directory first.

    They get this process's path later; until then a file there with the name of one of Python's own modules would run.
    """
    before = {name: os.environ[name] for name in ("PYTHONSAFEPATH",) if name in os.environ}
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        del os.environ["PYTHONSAFEPATH"]
        os.environ.update(before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Interrupts are delayed: in this thread until the block ends, in processes that it starts until they unblock them.

    A terminal sends an interrupt to all of its processes, and one that is still importing would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(
    places: Any,
    count: int,
    allowed: frozenset[str],
    interruptible: bool,
    plainly: bool,
    folder: str,
    environment: dict[str, str],
) -> None:
    import numpy as np
    import torch

    os.environ.clear()  # a fork has that of the process that imports, which began earlier
    os.environ.update(environment)
    np.random.seed()  # noqa: NPY002  # forks would draw the same
    threading.Thread(target=_outlived, args=(folder,), daemon=True).start()
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends it silently: the first process reports it
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if plainly:
        warnings.formatwarning = warned
    adopt(allowed)
    place = places.get()  # of this process among the workers
    torch.set_num_threads(max(1, cores() // count))
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())


def _outlived(folder: str) -> None:
    """End this process when its parent has ended: one that was killed could not say so. What was begun is resumed."""
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


@dataclass(frozen=True)
class Given:
    """The value itself, for executors of which no more is known."""

    given: Any

    def value(self) -> Any:
        return self.given


@dataclass(frozen=True)
class Sent:
    """A value that a process has been sent, or that it finds in a file: it is read and unpickled once.

    digest  of the pickled value
    file    in which it is, or "" where it has come with a job (`arrived`)
    """

    digest: str
    file: str = ""

    def value(self) -> Any:
        if self.digest not in _opened:
            value = pickle.loads(Path(self.file).read_bytes() if self.file else arrived[self.digest])
            for old in list(_opened)[: 1 - OPENED]:
                del _opened[old]
            _opened[self.digest] = value
        return _opened[self.digest]


arrived: dict[str, bytes] = {}
"""Pickled values that came with the job that this process works on."""
_opened: dict[str, Any] = {}


def _on_shared(work: Callable[[Any, Any], T], job: Any, shared: Given | Sent) -> T:
    return work(job, shared.value())


def check_shared(folder: Path) -> None:
    """Raises ValueError in a process that does not see the folder in which another one works (`working_in`)."""
    end = time.monotonic() + SEEN
    while not (folder / ".lock.json").is_file():
        with suppress(OSError):
            os.listdir(folder)  # which asks the server of a network's disk
        if time.monotonic() > end:
            raise ValueError(
                f"{folder.absolute()} is not shared with {platform.node()}: all workers of a cluster must see the same "
                "folders of runs and results"
            )
        time.sleep(0.2)


def each(
    work: Callable[..., T], jobs: Iterable[Any], executor: Executor | None, *, shared: Any = None, ahead: int = 32
) -> Iterator[T]:
    """The result of `work` for every job, in the order in which they finish; without an executor, in this process.

    shared  what the jobs have in common: `work(job, shared)`. Processes of `workers`, and Dask's, get it once
    ahead   at most so many jobs are made before they are needed, or twice as many as a cluster has processes

    A caller that stops reading cancels those that have not begun.

    Raises:
        ValueError: a job cannot be sent to another process.
        ClusterLost: the executor has given the work up.
    """
    if executor is None:
        yield from (work(job) if shared is None else work(job, shared) for job in jobs)
        return
    jobs, waiting = iter(jobs), set[Future]()
    try:
        with nullcontext() if shared is None else _shared(executor, shared) as sent:
            while True:
                room = max(ahead, 2 * getattr(executor, "processes", 0)) - len(waiting)
                for job in islice(jobs, max(0, room)):
                    future = (
                        executor.submit(work, job) if sent is None else executor.submit(_on_shared, work, job, sent)
                    )
                    waiting.add(future)
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
    except CancelledError as error:
        raise ClusterLost("the executor has cancelled the work, as when its scheduler is gone") from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if isinstance(error, pickle.PicklingError) or re.search("pickle|local object", str(error)):
            raise ValueError(
                f"the work cannot be sent to another process ({error}): take one worker, or define the model at the "
                "top of a module"
            ) from error
        raise
    finally:
        for future in waiting:
            future.cancel()


def _shared(executor: Executor, value: Any) -> AbstractContextManager[Given | Sent]:
    share = getattr(executor, "share", None)
    return nullcontext(Given(value)) if share is None else share(value)

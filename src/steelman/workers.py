"""Independent jobs on several processes or machines."""

import os
import re
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pickle import PicklingError
from typing import Any, TypeVar

import torch

from steelman.failures import warned
from steelman.trust import adopt, current

T = TypeVar("T")


def workers(count: int) -> Executor | None:
    """`count` processes, each with its share of the cores, and a GPU of its own where there are GPUs; None for one.

    Any `concurrent.futures.Executor` can be used instead: Dask's `Client.get_executor()`, submitit's. Close it
    (`with`), so that the processes end.

    Raises:
        ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"workers are counted from 1; got {count}")
    if count == 1:
        return None
    context = get_context("spawn")  # a process with CUDA or threads must not be forked
    with _safe_path():
        places = context.Queue()
        for place in range(count):
            places.put(place)
        interruptible = signal.getsignal(signal.SIGINT) != signal.SIG_IGN
        arguments = (places, count, current(), interruptible, warnings.formatwarning is warned)
        return _Workers(count, context, _begin, arguments)


class _Workers(ProcessPoolExecutor):
    def submit(self, *call: Any, **options: Any) -> Future:
        with _safe_path(), _uninterrupted():  # this starts processes
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
def _safe_path() -> Iterator[None]:
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
def _uninterrupted() -> Iterator[None]:
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


def _begin(places: Any, count: int, allowed: frozenset[str], interruptible: bool, plainly: bool) -> None:
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends it silently: the first process reports it
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if plainly:
        warnings.formatwarning = warned
    adopt(allowed)
    place = places.get()  # of this process among the workers
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())


def each(work: Callable[[Any], T], jobs: Iterable[Any], executor: Executor | None, ahead: int = 32) -> Iterator[T]:
    """The result of `work` for every job, in the order in which they finish; without an executor, in this process.

    At most `ahead` jobs are made before they are needed. A caller that stops reading cancels those that have not begun.

    Raises:
        ValueError: a job cannot be sent to another process.
    """
    if executor is None:
        yield from map(work, jobs)
        return
    jobs, waiting = iter(jobs), set()
    try:
        while True:
            waiting |= {executor.submit(work, job) for job in islice(jobs, ahead - len(waiting))}
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except (PicklingError, AttributeError, TypeError) as error:
        if isinstance(error, PicklingError) or re.search("pickle|local object", str(error)):
            raise ValueError(
                f"the work cannot be sent to another process ({error}): take one worker, or define the model at the "
                "top of a module"
            ) from error
        raise
    finally:
        for future in waiting:
            future.cancel()

"""Executors on the processes of other machines, by Dask: a scheduler's address, or a file that starts a cluster."""

import hashlib
import logging
import os
import pickle
import sys
import time
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future, InvalidStateError, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

from steelman.clusters import remote
from steelman.extras import require
from steelman.failures import one_line, warned
from steelman.files import parse_toml, reason_of
from steelman.trust import current, imported, named_in
from steelman.workers import ClusterLost, Sent, safe_path, uninterrupted, workers

if TYPE_CHECKING:
    import distributed

PATIENCE = 15.0
"""Seconds in which a scheduler must answer."""
RECENT = 5.0
"""Seconds after which the workers are counted again."""
SCALES = ("workers", "jobs", "adapt")
KEYS = ("kind", *SCALES, "settings")

Cluster: TypeAlias = str | Path | Executor
"""A scheduler's address, a TOML file, or an executor."""


def executor_of(count: int = 1, cluster: Cluster | None = None) -> AbstractContextManager[Executor | None]:
    """What `--workers` and `--cluster` ask for: an executor, to be closed by `with`; None for this process alone.

    Raises:
        ValueError: both, or see `connected`.
    """
    if cluster is None:
        return workers(count) or nullcontext()
    if count > 1:
        raise ValueError("--workers are processes of this machine, and --cluster has its own: leave one out")
    return nullcontext(cluster) if isinstance(cluster, Executor) else connected(cluster)


@contextmanager
def connected(cluster: str | Path) -> "Iterator[DaskExecutor]":
    """An executor on Dask's workers, each of which does one piece of work at a time, on a GPU of its own.

    cluster  the address of a scheduler ("tcp://host:8786", "tls://host:8786"), or a TOML file that says which cluster
             is started, and how:

             kind      such as "dask_jobqueue:SLURMCluster" or "distributed:LocalCluster"; it must be trusted
             settings  a table of its arguments
             workers, jobs, adapt  how many are started: so many workers, so many jobs of a queue, or a table of
                                   arguments of its `adapt`, such as { minimum = 1, maximum = 8 }

    A process gets a model once. A process that ends loses nothing: its work is done again by another one, and only work
    that has ended four of them (Dask's `allowed-failures`) is an error. PyTorch has as many threads as Dask gives the
    worker. Names that are trusted here are trusted there; warnings come back.

    Raises:
        ConnectionError: no scheduler answers.
        ValueError: no such file, a key or value in it that cannot be; on the way, where versions differ.
        steelman.trust.Untrusted: the file's kind is not trusted.
        ClusterLost: from the executor, when the scheduler has gone.
    """
    require("--cluster", "distributed", extra="dask")
    import distributed

    text = str(cluster)
    with ExitStack() as stack:
        stack.enter_context(_quietly())
        if "://" in text:
            address: Any = text
        else:
            stack.enter_context(safe_path())
            address = stack.enter_context(_started(Path(text)))
        try:
            client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"no Dask scheduler answers at {text} ({_reason(error)}): start one by `dask scheduler`, or correct "
                "the address"
            ) from error
        stack.callback(_closed, client)
        if not client.nthreads():
            warnings.warn(f"{text} has no worker yet: waiting for the first one", stacklevel=4)
        with DaskExecutor(client, text) as executor:
            yield executor


@final
class DaskExecutor(Executor):
    """An executor on the workers of a Dask client.

    client  a connected one
    name    of its scheduler, for messages
    """

    own_devices = True
    """Work is done on the device that a worker finds, not on that of the images here."""

    def __init__(self, client: "distributed.Client", name: str = "the Dask scheduler") -> None:
        self.client, self.name = client, name
        self.sent = 0
        """Bytes of work and of shared values, without the copies that workers make for each other."""
        self._kept: dict[str, Any] = {}
        self._told: set[str] = set()
        self._processes, self._counted = 0, -RECENT
        self._threads = ThreadPoolExecutor(8, "steelman-results")

    @property
    def processes(self) -> int:
        """How many the cluster has, or had a few seconds ago."""
        if time.monotonic() > self._counted + RECENT and self.client.status == "running":
            with suppress(Exception):  # a scheduler that has gone is found where a result is missing
                found: Any = self.client.nthreads()
                self._processes, self._counted = len(found), time.monotonic()
        return self._processes

    @contextmanager
    def share(self, value: Any) -> Iterator[Sent]:
        """A value that many jobs have, sent to the scheduler once."""
        raw = _pickled(value)
        digest = hashlib.sha256(raw).hexdigest()
        self._kept[digest] = self._submit(f"steelman-shared-{uuid.uuid4().hex}", remote.kept, digest, raw)
        try:
            yield Sent(digest)
        finally:
            del self._kept[digest]  # which lets the workers forget it

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future:
        setting = remote.Setting(
            os.getcwd(),
            current(),
            warnings.formatwarning is warned,
            tuple(each or os.getcwd() for each in sys.path),
            os.environ.get("STEELMAN_DEVICE"),
            remote.versions(),
        )
        shared = [self._kept[each.digest] for each in args if isinstance(each, Sent)]
        name = f"steelman-{getattr(fn, '__name__', 'work').strip('_')}-{uuid.uuid4().hex}"
        there, here = self._submit(name, remote.run, setting, _pickled((fn, args, kwargs)), *shared), Future()
        here.add_done_callback(lambda future: there.cancel() if future.cancelled() else None)
        # Dask calls back in one thread, which a result that was lost, and is made again, would hold up.
        there.add_done_callback(partial(self._threads.submit, self._finish, here))
        return here

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _submit(self, key: str, call: Any, *arguments: Any) -> Any:
        from dask import config

        self.sent += sum(len(each) for each in arguments if isinstance(each, bytes))
        try:
            # What is large is meant to be, and is sent once.
            with config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
                return self.client.submit(call, *arguments, key=key, pure=False)
        except Exception as error:
            if self.client.status != "running":
                raise self._lost() from error
            raise

    def _finish(self, here: Future, there: Any) -> None:
        """Hand on a result."""
        try:
            found = self._result(there)
        except BaseException as error:
            with suppress(InvalidStateError):  # cancelled
                here.set_exception(error)
        else:
            there.release()  # first: while it is held, the end of the worker that has it would have it made again
            with suppress(InvalidStateError):
                here.set_result(found)

    def _result(self, there: Any) -> Any:
        from distributed import KilledWorker

        if there.status == "cancelled":
            raise self._lost()
        try:
            raw, said = there.result()
        except KilledWorker as error:
            raise ChildProcessError(
                f"a piece of work has ended {error.allowed_failures + 1} Dask workers, perhaps for lack of memory: "
                "take fewer images at once (--batch-size), or give the workers more"
            ) from error
        except (OSError, CancelledError) as error:  # of the connection: those of the work itself are a `Failure`
            raise self._lost() from error
        except Exception as error:
            if self.client.status != "running":
                raise self._lost() from error
            raise ValueError(
                f"Dask cannot carry out the work ({type(error).__name__}: {_reason(error)}): scheduler and workers "
                "need the same packages as this process"
            ) from error
        for text, kind in said:
            if text not in self._told:
                self._told.add(text)
                warnings.warn(text, kind, stacklevel=2)
        found = pickle.loads(raw)
        if isinstance(found, remote.Failure):
            raise found.raised()
        return found

    def _lost(self) -> ClusterLost:
        return ClusterLost(f"{self.name} has gone: what is finished is kept, and the same call goes on")


@contextmanager
def _started(file: Path) -> Iterator[Any]:
    """The cluster that a file describes; it ends with the block."""
    if not file.is_file():
        raise ValueError(
            f"--cluster {file}: there is no such file; give the address of a scheduler, such as tcp://host:8786, or a "
            "TOML file"
        )
    try:
        told = parse_toml(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not TOML: {reason_of(error)}") from error
    if strange := next((key for key in told if key not in KEYS), None):
        raise ValueError(f"{file} has {strange!r}; a cluster has {', '.join(KEYS)}, and its arguments are in settings")
    kind, settings = told.get("kind"), told.get("settings", {})
    scale = [key for key in SCALES if key in told]
    if not isinstance(kind, str) or not isinstance(settings, dict) or len(scale) > 1:
        raise ValueError(f"{file} needs a kind, a table of settings, and at most one of {', '.join(SCALES)}")
    for key in scale:
        if not isinstance(told[key], dict if key == "adapt" else int):
            raise ValueError(f"{file}: {key} is {'a table' if key == 'adapt' else 'a number'}; got {told[key]!r}")
    with named_in(file):
        make = imported(kind, from_file=True)
    try:
        resource_tracker.ensure_running()  # which, when it starts, would let interrupts through
        with uninterrupted():  # and so are the threads and processes that it starts, for good
            cluster = make(**settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file}: {kind} cannot be started: {_reason(error)}") from error
    try:
        for key in scale:
            if key == "adapt":
                cluster.adapt(**told[key])
            else:
                cluster.scale(**{"n" if key == "workers" else key: told[key]})
        yield cluster
    finally:
        cluster.close()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Dask's log, which repeats what an error says."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _closed(client: "distributed.Client") -> None:
    with suppress(Exception):  # a scheduler that has gone
        client.close(timeout=5)


def _pickled(value: Any) -> bytes:
    """By reference where a module can be imported; classes and functions of a script by value."""
    from distributed.protocol.pickle import dumps

    return dumps(value)


def _reason(error: BaseException) -> str:
    return one_line(str(error))[:300]

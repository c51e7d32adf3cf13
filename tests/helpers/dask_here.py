"""A Dask scheduler and workers as processes of this machine, over TCP, as a user starts them by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TIRED = 1
"""Workers that one piece of work may end, in place of Dask's 3, so that a test waits less."""


@dataclass(frozen=True)
class Here:
    address: str
    scheduler: subprocess.Popen
    workers: list[subprocess.Popen]


@contextmanager
def dask_here(folder: Path, workers: int = 2, **environment: str) -> Iterator[Here]:
    """Their working directory is `folder`; the workers have nannies, which start them again."""
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(TIRED),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": "torch",
        **environment,
    }
    file, started = folder / "scheduler.json", list[subprocess.Popen]()

    def start(*words: str) -> subprocess.Popen:
        log = (folder / f"dask-{len(started)}.log").open("wb")
        command = [sys.executable, "-P", "-m", "dask", *words, "--no-dashboard"]
        started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=env, start_new_session=True))
        return started[-1]

    try:
        scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        end = time.monotonic() + 120
        while not file.is_file() or not file.read_text():
            assert time.monotonic() < end, (folder / "dask-0.log").read_text()
            assert scheduler.poll() is None, (folder / "dask-0.log").read_text()
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        ours = [start("worker", address, "--nthreads", "1", "--local-directory", str(folder)) for _ in range(workers)]
        yield Here(address, scheduler, ours)
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the nanny, and its worker
            process.wait()

"""Scripts that fork: each of their processes has imported everything already, which otherwise takes it seconds."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def run_script(*command: str) -> None:
    """Run a Python file of the tests, with as little around it as possible."""
    paths = (str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))
    environment = {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # two processes need two GPUs or none
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def in_a_pair(work: Callable[[], object]) -> None:
    """Do the same work in two new processes that train together: they have the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = set()
    for rank in range(2):
        child = os.fork()
        if child == 0:
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            os.environ.update(ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            work()
            sys.exit()
        children.add(child)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for other in children:  # it would wait for the one that failed
                os.kill(other, signal.SIGKILL)
            sys.exit(f"one of two processes ended with status {status}")


def killed(work: Callable[[], object], file: str, count: int) -> None:
    """Do work in a new process that is killed when it is about to put its `count`th file of this name in its place.

    file  the end of its path
    """
    child = os.fork()
    if child == 0:
        _die_in_write(file, count)
        try:
            work()
        finally:
            os._exit(1)  # not reached
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), file
    assert os.WTERMSIG(status) == signal.SIGKILL, file


def _die_in_write(file: str, count: int) -> None:
    put, seen = os.replace, 0

    def counting(source: Path, target: Path) -> None:
        nonlocal seen
        seen += str(target).endswith(file)
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        put(source, target)

    os.replace = counting

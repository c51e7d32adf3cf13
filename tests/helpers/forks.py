"""New processes that have imported PyTorch and the package already: forks of one that does so once.

`Popen` is a `subprocess.Popen` of what tests use. It takes `python -m steelman WORDS` and `python -c CODE WORDS`. As
after any start, jaxtyping's hook is not there, the working directory is on the path, and pids, sessions, signals and
exit codes are those of a process of its own. A module is imported once for all of them, so what a test says of imports
needs `subprocess`.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from select import select
from typing import Any

PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL
MODULES = (
    *("torch", "torch._dynamo", "torch.export", "safetensors.torch", "sklearn.datasets", "scipy.stats"),
    *("pyarrow.parquet", "pyarrow.dataset", "pydantic.type_adapter", "tomli_w", "jinja2", "PIL.PngImagePlugin"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
    *("steelman.cli.main", "steelman.methods"),
    *("steelman.experiments.assess", "steelman.experiments.opening", "steelman.experiments.sweep"),
    *("steelman.data.digits", "steelman.report.export"),
)


# --- in the process that imports, and in its forks


def serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Returns it in the fork that is to work; None, in the parent: there are no more."""
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that forks share it
    while True:
        received, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 4)
        if not received:
            return None
        if os.fork() == 0:
            return watched(json.loads(received), descriptors)
        for each in descriptors:
            os.close(each)
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG):  # those that have ended
            pass


def watched(request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """The fork that works returns; another stays, and writes its pid and, at its end, its exit code."""
    *streams, status = descriptors
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background would hand on SIG_IGN
        os.close(status)
        if request["session"]:
            os.setsid()
        else:
            os.setpgid(0, 0)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        sys.path.insert(0, request["cwd"])
        return request
    os.setpgid(0, 0)
    for number in (0, 1, 2, *streams):
        os.close(number)
    os.write(status, f"{child}\n".encode())
    _, code = os.waitpid(child, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(code)}\n".encode())
    os._exit(0)


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        request = serve(channel)
    if request is None:
        return
    code = 0
    try:
        work(*request["words"])
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            raise
    # What is imported is not taken down piece by piece, which would take seconds.
    threading._shutdown()  # pyright: ignore
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def work(kind: str, what: str, *words: str) -> None:
    sys.argv = [what, *words]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = "-c"
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


# --- in the process of the tests


@cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, __file__, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=DEVNULL, process_group=0)
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return ours


class Popen:
    """A process, as `subprocess.Popen` has it; always in a group or session of its own, so that it gets its signals."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: str | Path | None = None,
        env: dict[str, str] | None = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = False,
        start_new_session: bool = False,
        process_group: int | None = None,
    ) -> None:
        assert command[0] == sys.executable
        request = {
            "words": [*map(str, command[1:])],
            "cwd": str(Path(cwd or ".").absolute()),
            "env": dict(os.environ if env is None else env),
            "session": start_new_session,
        }
        null, mine = os.open(os.devnull, os.O_RDWR), list[int]()
        self.returncode: int | None = None
        self.files: list[Any] = []
        streams = [null]
        for number, asked in ((1, stdout), (2, stderr)):
            if asked == PIPE:
                read, write = os.pipe()
                mine.append(write)
                streams.append(write)
                self.files.append(os.fdopen(read, "r" if text else "rb"))
                continue
            self.files.append(None)
            streams.append(number if asked is None else null if asked == DEVNULL else asked.fileno())
        self.stdout, self.stderr = self.files
        self.status, write = os.pipe()
        socket.send_fds(_server(), [json.dumps(request).encode()], [*streams, write])
        for each in (null, write, *mine):
            os.close(each)
        self.reported = b""
        while b"\n" not in self.reported:
            self._read_status()
        self.pid = int(self.reported.partition(b"\n")[0])

    def _read_status(self) -> None:
        received = os.read(self.status, 100)
        assert received, "the process that forks has ended"
        self.reported += received
        if self.reported.count(b"\n") == 2:
            self.returncode = int(self.reported.split()[1])
            os.close(self.status)

    def poll(self) -> int | None:
        if self.returncode is None and select([self.status], [], [], 0)[0]:
            self._read_status()
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        until = time.monotonic() + timeout
        while self.returncode is None:
            if not select([self.status], [], [], max(0, until - time.monotonic()))[0]:
                raise subprocess.TimeoutExpired("a fork", timeout)
            self._read_status()
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[Any, Any]:
        with ThreadPoolExecutor() as threads:
            reading = [each and threads.submit(each.read) for each in self.files]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            read = [each and each.result(timeout) for each in reading]
        for each in self.files:
            if each:
                each.close()
        return read[0], read[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    main()

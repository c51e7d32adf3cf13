"""A command with all its processes, which are stopped, killed or waited for together.

They are found by /proc, so this is for Linux.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
ENVIRONMENT.pop("STEELMAN_DATA", None)


class Started:
    """A command at work in a folder, with all its processes. What it says goes into a file beside the folder."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.log, temporary = folder.with_name(f"{folder.name}.log"), folder.with_name("temporary")
        temporary.mkdir(exist_ok=True)  # where the killed leave what is not ours to judge, and torchrun what it says
        with self.log.open("wb") as log:
            how: dict[str, Any] = {"cwd": folder, "env": {**ENVIRONMENT, "TMPDIR": str(temporary)}}
            out: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.process = subprocess.Popen(command, start_new_session=True, **how, **out)
        self.known, self.asked = [self.process.pid], time.monotonic()
        self.worked: float | None = None
        """Since when it is at work, and no longer importing."""

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.stop()
            self.kill()

    @property
    def running(self) -> bool:
        if self.process.poll() is not None:
            return False
        if time.monotonic() - self.asked > 0.5:
            self.known, self.asked = _family(self.process.pid), time.monotonic()
        return True

    @property
    def code(self) -> int | None:
        return self.process.returncode

    @property
    def said(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace")[-1000:].strip()

    def stop(self) -> None:
        """Let every process stand still where it is; killed one by one, the others would go on for a while."""
        found = self.known
        while found:
            self.known = [*dict.fromkeys([*self.known, *found])]
            self.halt(found)
            found = [pid for pid in _family(self.process.pid) if pid not in self.known]

    def halt(self, pids: Sequence[int] = ()) -> None:
        """Let processes stand still; default: those that are known, which is faster than to look for others."""
        for pid in pids or self.known:
            _signal(pid, signal.SIGSTOP)
        for pid in pids or self.known:
            _wait_for(pid, "TtZX")

    def go_on(self) -> None:
        for pid in self.known:
            _signal(pid, signal.SIGCONT)

    def kill(self) -> bool:
        """Kill every process, once they stand still; False: it had ended by itself."""
        for pid in self.known:
            _signal(pid, signal.SIGKILL)
        self.process.wait()
        for pid in self.known:
            _wait_for(pid, "ZX")
            for left in Path("/dev/shm").glob(f"sem.*-{pid}-*"):
                left.unlink(missing_ok=True)
        return self.code == -signal.SIGKILL


def _family(pid: int) -> list[int]:
    """A process and all that it started, and these; torchrun gives each of them a group of its own."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(int(name))):
            parents.setdefault(int(stat[1]), []).append(int(name))
    family = [pid]
    for each in family:
        family += parents.get(each, [])
    return family


def _stat(pid: int) -> list[str]:
    """State, parent, and so on; nothing of a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _wait_for(pid: int, states: str) -> None:
    """Until a process is in one of these states, or gone."""
    begun = time.monotonic()
    while (stat := _stat(pid)) and stat[0] not in states:
        waited = time.monotonic() - begun
        if waited > 60:
            raise RuntimeError(f"process {pid} is {stat[0]}, and not {' or '.join(states)}, a minute after a signal")
        time.sleep(0.001 if waited > 0.002 else 0)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)

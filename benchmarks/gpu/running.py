"""Runs parts one after the other, each in a process of its own, and keeps what they found."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, TypeAlias

import torch
from benchmarks.gpu.ground import Setting
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.timing import problem

from steelman.files import write_text
from steelman.table.records import Provenance

Found: TypeAlias = dict[str, Any]
"""A part's "state" ("done", "failed", "out of time"), its "rows", and its "error" where it is not done."""

LEAST = 10.0
"""Seconds that must be left for a part to begin: a process takes several to import torch."""
FREE = ("date",)
"""What may differ between the calls that make one file."""
TIMES = {"seconds", "ratio", "first", "peak", "whole", "rounds", "alone", "both", "start", "launch", "number", "copy"}
"""Of rows; those of a small form are left out."""


def about(setting: Setting) -> dict[str, Any]:
    """What the rows were measured on. Raises SystemExit where the package is not installed, which tables ask for."""
    try:
        made = Provenance.now(setting.device)
    except PackageNotFoundError:
        raise SystemExit("install Steelman first: pip install --no-deps -e .") from None
    return {
        "device": made.device,
        "hardware": made.hardware,
        "torch": made.pytorch,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "small": setting.small,
        "date": date.today().isoformat(),
    }


@dataclass
class Store:
    """The file: about what it is, and what each part found."""

    path: Path
    about: dict[str, Any]
    parts: dict[str, Found]

    @staticmethod
    def open(path: Path, now: Mapping[str, Any]) -> "Store":
        """Raises SystemExit where the file was made elsewhere or otherwise."""
        if not path.is_file():
            return Store(path, dict(now), {})
        kept = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key, value in now.items() if key not in FREE and kept["about"].get(key) != value]
        if other:
            raise SystemExit(f"{path} was made with another {' and '.join(other)}: give another --out, or delete it")
        return Store(path, kept["about"], kept["parts"])

    def keep(self, name: str, found: Found) -> None:
        self.parts[name] = found
        write_text(self.path, json.dumps({"about": self.about, "parts": self.parts}) + "\n")

    def wanted(self, names: Sequence[str], again: Sequence[str] = ()) -> list[str]:
        """The parts that are not done, or are to be done again."""
        return [name for name in names if name in again or self.parts.get(name, {}).get("state") != "done"]


Launch: TypeAlias = Callable[[str, Setting, float], Found]


def run(store: Store, names: Sequence[str], setting: Setting, seconds: float, launch: Launch) -> None:
    """Every part, until the time is over; a part that was cut short or failed keeps the rows that it had."""
    end = time.monotonic() + seconds
    for name in names:
        left = end - time.monotonic()
        if left < LEAST:
            print(f"{name}: no time is left; the same command does it", flush=True)
            continue
        start = time.monotonic()
        found = launch(name, setting, min(PARTS[name].limit * setting.of(5, 1), left))
        store.keep(name, found)
        print(f"{name}: {found['state']}, {time.monotonic() - start:.0f} s. {found.get('error', '')}", flush=True)


def here(name: str, setting: Setting, seconds: float) -> Found:
    """A part in this process, without a limit."""
    rows: list[dict] = []
    try:
        rows.extend(_rows(PARTS[name], setting))
    except Exception as error:
        return {"state": "failed", "rows": rows, "error": problem(error)}
    return {"state": "done", "rows": rows}


def apart(name: str, setting: Setting, seconds: float) -> Found:
    """A part in a new process, which is killed at its limit: what it breaks (the GPU's context too) ends with it."""
    path = setting.folder / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--rows", str(path)]
    command += ["--device", str(setting.device), "--folder", str(setting.folder)]
    command += [*(["--small"] if setting.small else []), *(["--peers", str(setting.peers)] if setting.peers else [])]
    log = setting.folder / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
                process.wait()
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    if code is None:
        return {"state": "out of time", "rows": rows, "error": f"cut short after {seconds:.0f} s"}
    if code == 0:
        return {"state": "done", "rows": rows}
    last = next((line for line in reversed(log.read_text().splitlines()) if line.strip()), f"exit code {code}")
    return {"state": "failed", "rows": rows, "error": last[:300]}


def write_rows(part: Part, setting: Setting, path: Path) -> None:
    """Every row as soon as it is there, so that a process that is killed has left those before."""
    if setting.small:
        torch.compiler.set_stance("force_eager")  # compilers take longer than all the rest
    with path.open("w", encoding="utf-8") as file:
        for row in _rows(part, setting):
            file.write(json.dumps(row) + "\n")
            file.flush()


def _rows(part: Part, setting: Setting) -> Iterator[dict]:
    for row in part.rows(setting):
        yield {key: value for key, value in row.items() if not (setting.small and key in TIMES)}

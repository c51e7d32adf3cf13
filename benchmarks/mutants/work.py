"""Running tests on a private copy of the package."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mutants.fault import Fault, files_of, plant

PLUGIN = Path(__file__).parents[2]
"""The folder from which `benchmarks.mutants.plugin` is imported."""

LEAST = 240.0
"""Seconds that every run may take, however short its tests are without a fault."""


@dataclass(frozen=True)
class Outcome:
    passed: bool
    failed: str
    """The first test that failed, or "timeout"; empty where all passed."""
    seconds: float


@contextmanager
def copied(source: Path, recipes: Path) -> Iterator[Path]:
    """A private copy of `source`, with the recipes beside it where the package looks for them."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        shutil.copytree(source, Path(folder) / "src")
        if recipes.is_dir():
            (Path(folder) / "recipes").symlink_to(recipes.resolve())
        yield Path(folder) / "src"


def judged(fault: Fault, pristine: Path, root: Path, limit: float) -> Outcome:
    """What the fault's tests say of a copy of `pristine` that has it."""
    with copied(pristine, root / "recipes") as source:
        plant(fault, source)
        return run_tests(fault.selection, source, root, limit)


def run_tests(selection: tuple[str, str], source: Path, root: Path, limit: float) -> Outcome:
    """Run the tests of `root` on the package in `source`.

    Raises:
        RuntimeError: pytest could not run them, or another copy of the package was imported.
    """
    tests, only = selection
    files = [str(path.relative_to(root)) for path in files_of(tests, root / "tests")]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    command += ["-p", "benchmarks.mutants.plugin", *(["-k", only] if only else []), *files]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(source), str(PLUGIN)]),
        "MUTANT_SOURCE": str(source),
        "OMP_NUM_THREADS": "1",
    }
    start = time.perf_counter()
    said, code = _run(command, root, environment, limit)
    seconds = time.perf_counter() - start
    if code is None:
        return Outcome(False, "timeout", seconds)
    if code not in (0, 1):
        raise RuntimeError(f"pytest ended with {code} on {' '.join(files)}, so nothing was tested:\n{said[-2000:]}")
    return Outcome(code == 0, "" if code == 0 else first_failure(said), seconds)


def first_failure(said: str) -> str:
    """The name of the first failed test in pytest's summary."""
    found = re.search(r"^(?:FAILED|ERROR) (?:\S*/)?(\S+?\.py)(?:::(.+?))?(?: - .*)?$", said, re.M)
    return "unknown" if found is None else "::".join(part for part in found.groups() if part)


def _run(command: list[str], folder: Path, environment: dict[str, str], limit: float) -> tuple[str, int | None]:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=limit)[0], process.returncode
    except subprocess.TimeoutExpired:
        return "", None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # also what a test has started
        process.wait()

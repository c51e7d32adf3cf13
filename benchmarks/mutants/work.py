"""Running tests on a private copy of the package."""

import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.mutants.fault import Fault, files_of, plant

PLUGIN = Path(__file__).parents[2]
"""The folder from which `benchmarks.mutants.plugin` is imported."""

PRELOADED = ["torch", "numpy", "scipy.stats", "scipy.optimize", "pyarrow.parquet", "pydantic", "safetensors.torch"]
"""What most runs import; nothing of the package, and no plugin of pytest."""

_starting = threading.Lock()

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
    arguments = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "benchmarks.mutants.plugin"]
    arguments += [*(["-k", only] if only else []), *files]
    start = time.perf_counter()
    with tempfile.NamedTemporaryFile(prefix="mutant-", suffix=".txt") as file:
        code = _forked((arguments, source, root, file.name), limit)
        said = Path(file.name).read_text(encoding="utf-8", errors="replace")
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


def _forked(arguments: tuple[list[str], Path, Path, str], limit: float) -> int | None:
    """pytest's exit code in a process that begins with PyTorch imported; None where it took too long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_pytest, args=arguments)
    with _starting:  # forkserver's start is not for several threads
        process.start()
    assert process.pid
    try:
        process.join(limit)
        return process.exitcode
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # also what a test has started
        process.join()


def _pytest(arguments: list[str], source: Path, root: Path, said: str) -> None:
    os.setsid()
    with open(said, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False  # copies of the copy need not be compiled again
    os.environ |= {
        "PYTHONPATH": os.pathsep.join([str(source), str(PLUGIN)]),
        "MUTANT_SOURCE": str(source),
        "OMP_NUM_THREADS": "1",
    }
    sys.path[:0] = [str(source), str(root), str(PLUGIN)]
    sys.argv = ["pytest"]
    os.chdir(root)
    import pytest

    code = int(pytest.main(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

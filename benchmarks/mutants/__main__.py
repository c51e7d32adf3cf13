"""Plant deliberate faults into a copy of the package, one at a time, and run the tests that should notice each.

    make mutants ARGS='--only pgd-step --jobs 1'

First every selection of tests runs without a fault, and has to pass. A fault after which all of its tests pass has
survived. What was found is kept in docs/results/mutants.json as it comes, and a fault is run again only where the
package, a test or the fault has changed since; so a killed run goes on where it was.

Exit code 1: a fault survived. 2: a fault or its tests cannot be found or run, or tests fail without a fault.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.mutants.fault import Fault, files_of, place
from benchmarks.mutants.page import page
from benchmarks.mutants.table import FAULTS
from benchmarks.mutants.work import LEAST, Outcome, copied, judged, run_tests

ROOT = Path(__file__).parents[2]


class Results:
    """What was found, by fault and by selection of tests, in a file that is written anew after each."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.tests = path, root / "tests"
        self.found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
        self.rows, self.plain = self.found.setdefault("faults", {}), self.found.setdefault("without a fault", {})
        helpers = [path for path in self.tests.rglob("*.py") if not path.name.startswith("test_")]
        self.shared = _digest([*(root / "src").rglob("*.py"), *helpers])

    def key(self, what: Fault | tuple[str, str]) -> str:
        """Of all that decides: the package, the tests and what they import, and the fault."""
        own = _digest(files_of(what.tests if isinstance(what, Fault) else what[0], self.tests))
        return hashlib.sha256(f"{self.shared} {own} {what}".encode()).hexdigest()[:16]

    def known(self, rows: dict[str, Any], name: str, what: Fault | tuple[str, str]) -> bool:
        return rows.get(name, {}).get("key") == self.key(what)

    def keep(self, rows: dict[str, Any], name: str, what: Fault | tuple[str, str], **row: object) -> None:
        rows[name] = {**row, "key": self.key(what)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".json.partial")
        partial.write_text(json.dumps(self.found, indent=1) + "\n")
        partial.replace(self.path)


def _digest(paths: list[Path]) -> str:
    parts = sorted(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def measure(faults: list[Fault], results: Results, root: Path, jobs: int) -> None:
    """Run what is not known yet.

    Raises:
        ValueError: a fault or a file of tests is not there once.
        RuntimeError: tests failed without a fault, or could not be run with one; all others have been run.
    """
    wrong: list[str] = []
    for fault in faults:
        place(fault, root / "src")
        files_of(fault.tests, root / "tests")
    left = [fault for fault in faults if not results.known(results.rows, fault.name, fault)]
    with copied(root / "src", root / "recipes") as pristine, ThreadPoolExecutor(jobs) as pool:
        plain = {_called(fault): fault.selection for fault in left}
        plain = {name: each for name, each in plain.items() if not results.known(results.plain, name, each)}
        plain = plain or {_called(fault): fault.selection for fault in left[:1]}  # compiles the copy, for all others

        def without(name: str) -> Outcome:
            return run_tests(plain[name], pristine, root, 1800)

        for name, outcome in _each(pool, without, plain):
            if isinstance(outcome, RuntimeError) or not outcome.passed:
                why = outcome if isinstance(outcome, RuntimeError) else outcome.failed
                wrong.append(f"the tests of {name} fail without a fault: {why}")
            else:
                results.keep(results.plain, name, plain[name], seconds=round(outcome.seconds, 1))
        by_name = {fault.name: fault for fault in left if results.known(results.plain, _called(fault), fault.selection)}

        def with_one(name: str) -> Outcome:
            alone = results.plain[_called(by_name[name])]["seconds"]
            return judged(by_name[name], pristine, root, max(LEAST, 10 * alone))

        for done, (name, outcome) in enumerate(_each(pool, with_one, by_name), 1):
            fault = by_name[name]
            if isinstance(outcome, RuntimeError):
                wrong.append(f"fault {name}: {outcome}")
                continue
            row = {"kind": fault.kind, "killed_by": outcome.failed, "seconds": round(outcome.seconds, 1)}
            results.keep(results.rows, name, fault, **row)
            _say(f"{done}/{len(left)} {name}: {outcome.failed or 'SURVIVED'} ({outcome.seconds:.0f} s)")
    if wrong:
        raise RuntimeError("\n".join(wrong))


def _each(
    pool: ThreadPoolExecutor, work: Callable[[str], Outcome], names: Iterable[str]
) -> Iterator[tuple[str, Outcome | RuntimeError]]:
    started: dict[Future[Outcome], str] = {pool.submit(work, name): name for name in names}
    try:
        for future in as_completed(started):
            error = future.exception()
            yield started[future], error if isinstance(error, RuntimeError) else future.result()
    finally:
        for future in started:
            future.cancel()


def _called(fault: Fault) -> str:
    return f"{fault.tests} -k {fault.only}" if fault.only else fault.tests


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def hardware() -> str:
    """The processor's name and the number of cores."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    cores = os.cpu_count() or 1
    return f"{cores} core{'s' * (cores > 1)} of {found[1] if found else platform.processor() or platform.machine()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these faults alone; writes no page")
    parser.add_argument("--kind", help="faults of this kind alone; writes no page")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="folder of mutants.md and .json")
    parser.add_argument("--hardware", default=hardware())
    options = parser.parse_args()
    unknown = set(options.only or ()) - {fault.name for fault in FAULTS}
    if unknown:
        parser.error(f"no fault is called {', '.join(sorted(unknown))}; the table is benchmarks/mutants/table.py")
    faults = [
        fault
        for fault in FAULTS
        if (not options.only or fault.name in options.only) and options.kind in (None, fault.kind)
    ]
    os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch is imported anywhere
    results = Results(options.out / "mutants.json", ROOT)
    try:
        measure(faults, results, ROOT, options.jobs)
    except (ValueError, RuntimeError) as error:
        _say(str(error))
        return 2
    survived = [fault.name for fault in faults if not results.rows[fault.name]["killed_by"]]
    if len(faults) == len(FAULTS):
        names = {fault.name for fault in FAULTS}
        for gone in set(results.rows) - names:
            del results.rows[gone]
        told = {"hardware": options.hardware, "date": date.today().isoformat(), "command": "make mutants"}
        (options.out / "mutants.md").write_text(page(FAULTS, results.rows, told), encoding="utf-8")
    _say(
        f"{len(faults) - len(survived)} of {len(faults)} noticed" + (f"; not {', '.join(survived)}" if survived else "")
    )
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

"""A deliberate fault, and where it is planted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One piece of source replaced by another.

    `old` occurs exactly once in the whole package. No path is kept, so that files can move.
    """

    name: str
    kind: str
    old: str
    new: str
    tests: str
    """Files of tests, without folder, `test_` and suffix, divided by spaces."""
    only: str = ""
    """pytest's -k, where a file is slow: names of test functions, never of their parameters."""

    @property
    def selection(self) -> tuple[str, str]:
        return self.tests, self.only


def place(fault: Fault, source: Path) -> Path:
    """The only file under `source` that holds the fault's `old`.

    Raises:
        ValueError: there is none, or `old` occurs more than once.
    """
    counts = {path: path.read_text(encoding="utf-8").count(fault.old) for path in sorted(source.rglob("*.py"))}
    found = {path: count for path, count in counts.items() if count}
    if sum(found.values()) != 1:
        where = ", ".join(f"{path.relative_to(source)} ({count})" for path, count in found.items()) or "no file"
        raise ValueError(
            f"fault {fault.name}: its text has to occur once in {source}, and occurs in {where}: {fault.old!r}. "
            "Correct the table in benchmarks/mutants/"
        )
    return next(iter(found))


def mutated(fault: Fault, text: str) -> str:
    return text.replace(fault.old, fault.new, 1)


def plant(fault: Fault, source: Path) -> None:
    """Write the fault into the tree under `source`."""
    path = place(fault, source)
    path.write_text(mutated(fault, path.read_text(encoding="utf-8")), encoding="utf-8")


def files_of(tests: str, folder: Path) -> list[Path]:
    """The files of a fault's `tests`, in whatever folder they lie.

    Raises:
        ValueError: a name has no file, or several.
    """
    return [_one(name, sorted(folder.rglob(f"test_{name}.py"))) for name in tests.split()]


def _one(name: str, found: Sequence[Path]) -> Path:
    if len(found) != 1:
        raise ValueError(f"test_{name}.py has to be one file; found {len(found)}. Correct the table of faults")
    return found[0]

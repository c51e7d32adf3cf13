"""The table of deliberate faults fits the package, and the script that plants them tells what survives."""

import ast
from multiprocessing import forkserver
from pathlib import Path

import pytest
from benchmarks.mutants import work
from benchmarks.mutants.fault import Fault, files_of, mutated, place, plant
from benchmarks.mutants.page import page
from benchmarks.mutants.table import FAULTS
from benchmarks.mutants.work import Outcome, copied, first_failure, judged, run_tests

ROOT = Path(__file__).parent
while not (ROOT / "pyproject.toml").exists():
    ROOT = ROOT.parent


def test_every_fault_has_one_place_and_leaves_python():
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")}
    wrong = []
    for fault in FAULTS:
        holding = [text for text in sources.values() if fault.old in text]
        count = sum(text.count(fault.old) for text in holding)
        if count != 1:
            wrong.append(f"{fault.name}: {fault.old!r} occurs {count} times in src/")
        elif fault.old == fault.new:
            wrong.append(f"{fault.name}: it changes nothing")
        else:
            ast.parse(mutated(fault, holding[0]))
    assert not wrong, "\n".join(wrong)
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 60


def test_every_fault_has_tests():
    wrong = []
    for fault in FAULTS:
        try:
            text = " ".join(path.read_text(encoding="utf-8") for path in files_of(fault.tests, ROOT / "tests"))
        except ValueError as error:
            wrong.append(f"{fault.name}: {error}")
            continue
        lacking = [word for word in fault.only.replace(" or ", " ").split() if not _names(word, text)]
        wrong += [f"{fault.name}: no test of {fault.tests} has {word!r} in its name" for word in lacking]
    assert not wrong, "\n".join(wrong)


def _names(word: str, text: str) -> bool:
    return any(word in line for line in text.splitlines() if line.startswith("def test_"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of one function, with a test that sees its sign alone; it does not need PyTorch."""
    monkeypatch.setattr(work, "PRELOADED", [])
    forkserver._forkserver._stop()  # pyright: ignore[reportAttributeAccessIssue]  # workers have imported the package
    (tmp_path / "src" / "steelman").mkdir(parents=True)
    (tmp_path / "src" / "steelman" / "__init__.py").write_text("def square(x):\n    return x * x\n")
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    (tmp_path / "tests" / "deep" / "test_square.py").write_text(
        "from steelman import square\n\n\ndef test_it_is_positive():\n    assert square(-2) > 0\n"
    )
    return tmp_path


def test_a_fault_is_noticed_or_survives_and_the_source_stays(root: Path):
    noticed = Fault("sign", "formula", "x * x", "-x * x", "square")
    survives = Fault("factor", "formula", "x * x", "2 * x * x", "square")
    before = (root / "src" / "steelman" / "__init__.py").read_text()
    assert run_tests(("square", ""), root / "src", root, 60).passed
    outcomes = [judged(fault, root / "src", root, 60) for fault in (noticed, survives)]
    assert [each.passed for each in outcomes] == [False, True]
    assert outcomes[0].failed == "test_square.py::test_it_is_positive"
    assert (root / "src" / "steelman" / "__init__.py").read_text() == before
    rows = {
        name: {"killed_by": each.failed, "seconds": 1.0}
        for name, each in zip(("sign", "factor"), outcomes, strict=True)
    }
    text = page([noticed, survives], rows, {"hardware": "one core", "date": "today", "command": "make mutants"})
    assert "1 of 2 faults of 1 kinds were noticed. Unnoticed: factor." in text
    assert "| formula | sign | `test_square.py::test_it_is_positive` | 1 |" in text


def test_what_tests_nothing_is_an_error(root: Path):
    with pytest.raises(
        ValueError, match=r"fault none: its text has to occur once in .*, and occurs in no file: 'cube'"
    ):
        place(Fault("none", "formula", "cube", "", "square"), root / "src")
    with pytest.raises(ValueError, match=r"occurs in .*__init__.py \(3\): 'x'"):
        plant(Fault("thrice", "formula", "x", "", "square"), root / "src")
    with pytest.raises(ValueError, match=r"test_cube.py has to be one file; found 0"):
        files_of("square cube", root / "tests")
    broken = Fault("broken", "formula", "return", "retrun", "square")
    with pytest.raises(RuntimeError, match=r"pytest ended with 2 on tests/deep/test_square.py, so nothing was tested"):
        judged(broken, root / "src", root, 60)
    with copied(root / "src", root / "recipes") as source:
        (source / "steelman" / "__init__.py").rename(source / "moved.py")
        (root / "steelman.py").write_text("def square(x):\n    return x * x\n")
        with pytest.raises(RuntimeError, match=f"steelman was imported from {root / 'steelman.py'}"):
            run_tests(("square", ""), source, root, 60)


def test_the_first_failure_is_named():
    said = "FAILED tests/deep/test_a.py::test_b[0.5-x - y] - AssertionError: no - yes\nFAILED tests/test_c.py::test_d\n"
    assert first_failure(said).startswith("test_a.py::test_b[0.5-x")
    assert first_failure("ERROR tests/test_a.py::test_b - ValueError") == "test_a.py::test_b"
    assert Outcome(False, first_failure(""), 0.0).failed == "unknown"

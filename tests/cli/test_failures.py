"""What the command says when something fails: one line, the right exit code, and a log that has the details."""

import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

import forks
from steelman import failures
from steelman.cli.summaries import ROOMS, summaries
from steelman.failures import KEPT, described, guarded, one_line, plainly, warned
from steelman.methods import methods
from steelman.training import Diverged

VERBS = {
    "demo": ("steelman.experiments.demo.run", ()),
    "train": ("steelman.experiments.run.train", ("r",)),
    "attack-train": ("steelman.experiments.attack_train.attack_train", ("r", "L2LDA")),
    "evaluate": ("steelman.experiments.opening.open_subject", ("r",)),
    "sweep": ("steelman.experiments.sweep.sweep", ("r", "--vary", "a=1,2")),
    "compare": ("steelman.experiments.compare.compare", ("r",)),
    "cite": ("steelman.methods.cite", ("PGD",)),
}
"""For each verb the function that does its work, and words with which that is reached."""


@pytest.fixture
def raising(call, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """A verb whose work raises an error."""

    def run(error: BaseException, verb: str = "cite") -> tuple[int, str, str]:
        def work(*_: object, **__: object) -> None:
            raise error

        place, words = VERBS[verb]
        monkeypatch.setattr(place, work)
        return call(verb, *words)

    return run


def logs() -> list[Path]:
    return sorted((Path(os.environ["XDG_STATE_HOME"]) / "steelman").glob("*.log"))


UNFORESEEN = (
    RuntimeError("a\n  b"),
    KeyError("name"),
    AttributeError("'NoneType' object has no attribute 'x'"),
    AssertionError(),
    ZeroDivisionError("division by zero"),
    NotImplementedError("later"),
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    BrokenProcessPool("terminated abruptly"),
    StopIteration(),
    EOFError(),
    SystemExit(0),
    GeneratorExit(),
    ExceptionGroup("several", [ValueError("one")]),
)


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_an_unforeseen_error_is_one_line_that_names_its_log(error: BaseException, raising):
    code, out, err = raising(error)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith(f"steelman: cite failed: {type(error).__name__}")
    assert one_line(str(error)) in err
    (log,) = logs()
    assert err.endswith(f"; details are in {log}\n")
    text = log.read_text()
    for part in (
        "command: steelman cite PGD",
        f"torch {torch.__version__}",
        "Traceback",
        "test_failures.py",
        "in work",
    ):
        assert part in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_guarded(verb: str, raising, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = raising(RuntimeError("broken"), verb)
    assert (code, out) == (1, "")
    assert err == f"steelman: {verb} failed: RuntimeError: broken; details are in {logs()[0]}\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "a/b"), 2, "a/b: No such file or directory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("the same call goes on"), 130, "the same call goes on"),
        (Diverged("the loss is nan\nin epoch 1"), 1, "the loss is nan in epoch 1"),
    ],
)
def test_a_foreseen_error_needs_no_log(error: BaseException, code: int, line: str, raising):
    assert raising(error) == (code, "", f"steelman: {line}\n")
    assert logs() == []


def test_a_message_of_ours_needs_no_log_and_one_from_elsewhere_has_one(raising, call):
    code, _, err = call("cite", "DeepFoul")
    assert (code, logs()) == (2, [])
    assert "details" not in err
    for error, text in (
        (ValueError("bad\nvalue"), "bad value"),
        (ImportError("No module named 'x'"), "No module named 'x'"),
        (OSError("no answer"), "no answer"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ):
        code, _, err = raising(error)
        assert code == 2
        assert err == f"steelman: {text}; details are in {logs()[-1]}\n"


@pytest.mark.parametrize(("code", "ours"), [("int('x')", False), ("raise ValueError('a word')", True)])
def test_what_python_raises_in_our_code_is_no_message_of_ours(code: str, ours: bool):
    place = Path(failures.__file__).with_name("any.py")
    with pytest.raises(ValueError, match=r"int|word") as found:
        exec(compile(code, str(place), "exec"))
    assert failures._is_explained(found.value) == ours


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise TypeError("no words")


def test_an_error_without_a_message_is_reported_by_its_name(raising):
    code, _, err = raising(Unspeakable())
    assert code == 1
    assert err.startswith("steelman: cite failed: Unspeakable; details are in ")


def test_where_our_own_code_raised_in_another_process_is_seen():
    """`concurrent.futures` hands on the traceback as a text."""
    from concurrent.futures.process import _ExceptionWithTraceback

    def remote(work: Callable[[], object]) -> ValueError:
        try:
            work()
        except ValueError as error:
            return pickle.loads(pickle.dumps(_ExceptionWithTraceback(error, error.__traceback__)))
        raise AssertionError

    assert failures._is_explained(remote(lambda: failures_of_ours()))
    assert not failures._is_explained(remote(lambda: int("x")))


def failures_of_ours() -> None:
    from steelman.evaluation import default_radius
    from steelman.norms import Linf

    default_radius("nothing", Linf)


def test_an_error_of_the_parser_is_not_ours(call):
    code, _, err = call("cite")
    assert code == 2
    assert "Missing argument" in err
    assert logs() == []


def test_few_logs_are_kept(raising):
    for number in range(KEPT + 3):
        folder = failures.log_folder()
        folder.mkdir(exist_ok=True)
        (folder / f"2000-01-01T00-00-{number:02}-x-1.log").write_text("old")
    raising(RuntimeError())
    assert len(logs()) == KEPT
    assert "RuntimeError" in logs()[-1].read_text()


def test_a_log_that_cannot_be_written_hides_no_error(raising, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, _, err = raising(RuntimeError("first"))
    assert code == 1
    (log,) = tmp_path.glob("steelman-*.log")
    assert err.endswith(f"first; details are in {log}\n")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    code, _, err = raising(RuntimeError("second"))
    assert code == 1
    assert "second; the details could not be written (NotADirectoryError): STEELMAN_TRACEBACK=1 shows them" in err


def test_a_message_cannot_move_the_cursor_and_is_not_endless(raising):
    code, _, err = raising(RuntimeError("\x1b[2Ja\r\nb\tc " + "long " * 10_000))
    assert code == 1
    assert "RuntimeError: \\x1b[2Ja b\\tc long" in err
    assert len(err) < 800


def test_each_of_several_processes_says_which_it_is(raising, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert raising(RuntimeError())[2].startswith("steelman (process 1 of 2): cite failed: ")
    assert raising(KeyboardInterrupt()) == (130, "", "")
    monkeypatch.setenv("RANK", "0")
    assert raising(KeyboardInterrupt()) == (130, "", "steelman: interrupted\n")


def test_what_ends_no_process_is_one_line_too(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    before = warnings.formatwarning, threading.excepthook, sys.unraisablehook
    with plainly():
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        assert warnings.formatwarning is warned
    assert (warnings.formatwarning, threading.excepthook, sys.unraisablehook) == before
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("steelman: a part of the work failed: ZeroDivisionError")
    assert warned(UserWarning("two\nlines")) == "steelman: two lines\n"


def test_guards_within_each_other_say_it_once(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as end, guarded(), guarded("train"):
        raise RuntimeError("x")
    assert end.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert described(RuntimeError("x"))[1].startswith("RuntimeError: x; details are in ")


MODULE = """
import multiprocessing, os, time, torch, warnings
class Model(torch.nn.Linear):
    def forward(self, x):
        worker = multiprocessing.parent_process() is not None
        if worker and os.environ["HOW"] == "fails":
            warnings.warn("two\\nlines")
            raise KeyError("here")
        if worker and os.environ["HOW"] == "waits": open(f"begun-{os.getpid()}", "w"); time.sleep(60)
        return super().forward(x.flatten(1))
model = Model(64, 10)
"""
EVALUATE = ("evaluate", "failing:model", "--data", "Digits", "--images", "20", "--workers", "2", "--batch-size", "10")


def evaluated(folder: Path, how: str) -> forks.Popen:
    (folder / "failing.py").write_text(MODULE)
    environment = os.environ | {"XDG_STATE_HOME": str(folder), "OMP_NUM_THREADS": "1", "HOW": how}
    command = [sys.executable, "-m", "steelman", *EVALUATE]
    return forks.Popen(command, stdout=forks.PIPE, stderr=forks.PIPE, text=True, cwd=folder, env=environment)


@pytest.mark.xdist_group("forks")
def test_what_goes_wrong_in_a_worker_is_one_line_as_its_warnings_are(tmp_path: Path):
    process = evaluated(tmp_path, "fails")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    warning, error = dict.fromkeys(err.splitlines())
    assert warning == "steelman: two lines"
    assert error.startswith("steelman: evaluate failed: KeyError: 'here'; details are in ")
    (log,) = (tmp_path / "steelman").glob("*.log")
    assert "failing.py" in log.read_text(), "the worker's own traceback"


@pytest.mark.xdist_group("forks")
def test_an_interrupt_ends_workers_at_once_and_without_a_word(tmp_path: Path):
    process = evaluated(tmp_path, "waits")
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("begun-*"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, 2)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "steelman: evaluation was interrupted; the same call resumes it\n"


@pytest.mark.parametrize("words", ["cite PGD", "train --help"])
def test_a_reader_that_has_gone_is_no_error(words: str, tmp_path: Path):
    """As `| head -0`: the pipe is closed before anything is written."""
    command, environment = (
        [sys.executable, "-m", "steelman", *words.split()],
        os.environ | {"XDG_STATE_HOME": str(tmp_path)},
    )
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode in (1, 141)
    assert not list(tmp_path.glob("steelman/*"))


def test_help_and_typos_do_not_wait_for_torch():
    program = """
import sys
from steelman.__main__ import main
for words in ("--help", "evalute", "train --help", "attack-train -h", "sweep --vari x", "--hlp"):
    sys.argv = ["steelman", *words.split()]
    try:
        main()
    except SystemExit as end:
        assert end.code == (0 if "-h" in words.replace("hlp", "") else 2), (words, end.code)
slow = {"torch", "numpy", "jaxtyping", "pyarrow", "scipy", "matplotlib"} & set(sys.modules)
print("slow:", slow, file=sys.stderr)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert found.stderr.endswith("slow: set()\n"), found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("kind", ROOMS)
def test_summaries_that_are_read_are_those_of_the_cards(kind: str):
    assert summaries(kind) == {each.name: each.summary for each in methods(kind)}


def test_a_name_like_no_other_is_answered_with_few_names():
    from steelman.naming import FEW, MANY, nearest

    names = [f"recipe-{number:03}" for number in range(MANY + 1)]
    said = nearest("zzz", names)
    assert said.endswith(f" and {MANY + 1 - FEW} others")
    assert said.count("recipe-") == FEW
    assert nearest("zzz", names[:MANY]).count("recipe-") == MANY

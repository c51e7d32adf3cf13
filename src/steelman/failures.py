"""Errors of the command: one line, and for unforeseen ones a log file with the details."""

import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

TRACEBACK = "STEELMAN_TRACEBACK"
"""The environment variable with which the command shows tracebacks."""
KEPT = 20
"""How many logs are kept."""
LONGEST = 400
"""Characters of an unforeseen error's message that are shown; the log has all of it."""

USERS = (ValueError, OSError, ImportError)
"""Errors of the user's input: exit code 2."""
MEMORY = "take fewer images at once, or a smaller network"
REMEDIES = {
    "MemoryError": MEMORY,
    "OutOfMemoryError": MEMORY,
    "BrokenExecutor": "a process ended before its work did, perhaps for lack of memory: take fewer --workers",
}


@contextmanager
def guarded(verb: str = "") -> Iterator[None]:
    """An error in the block ends the process, with one line on standard error and an exit code.

    1 for an unforeseen error and for a training that diverged, 2 for an error of the user's input, 130 for an
    interrupt, 141 without a line where the reader of standard output has closed it. Errors of options, which the
    command's parser shows, are passed on; with STEELMAN_TRACEBACK=1 all are.

    verb  the command that runs. Without it, SystemExit is passed on: it is the parser's
    """
    try:
        yield
    except BaseException as error:
        from_parser = hasattr(error, "exit_code") or (isinstance(error, SystemExit) and not verb)
        if from_parser or os.environ.get(TRACEBACK):
            raise
        if _output_is_closed(error):
            _exit_silently()
        code, line = described(error, verb)
        complain(line, everywhere=code != 130)
        sys.exit(code)


def described(error: BaseException, verb: str = "") -> tuple[int, str]:
    """An exit code and a line for an error; the details of an unforeseen one are written to a log.

    verb  what failed, with which the line of such an error begins; "" where another line names it
    """
    text = _message(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, text or "interrupted"
    step = sys.modules.get("steelman.training.step")  # a class that was not imported was not raised
    if step is not None and isinstance(error, step.Diverged):
        return 1, text
    if isinstance(error, USERS):
        if isinstance(error, OSError) and error.errno is not None and error.strerror:
            path = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
            text = one_line(error.strerror if path is None else f"{path}: {error.strerror}")
        text = text or type(error).__name__
        return 2, text if _is_explained(error) else f"{text}; {_logged(error, verb)}"
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    remedies = (REMEDIES.get(kind.__name__) for kind in type(error).__mro__)
    remedy = next((f" ({each})" for each in remedies if each), "")
    line = ": ".join(part for part in (type(error).__name__, text) if part)
    return 1, f"{verb + ' failed: ' if verb else ''}{line}{remedy}; {_logged(error, verb)}"


def one_line(text: str) -> str:
    """A text in one line, without what could move a terminal's cursor."""
    joined = re.sub(r"\s*[\r\n]+\s*", " ", text.strip())
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in joined)


def complain(text: str, everywhere: bool = True) -> None:
    """A line on standard error; of several processes from each with its number, or from the first one only."""
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not everywhere and rank != "0":
        return
    name = "steelman" if world == "1" or not everywhere else f"steelman (process {rank} of {world})"
    with suppress(OSError, ValueError, AttributeError):  # a standard error that is closed, or none
        print(f"{name}: {text}", file=sys.stderr, flush=True)


def warned(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as one line, in place of `warnings.formatwarning`."""
    return f"steelman: {one_line(str(message))}\n"


@contextmanager
def plainly() -> Iterator[None]:
    """Within the block, warnings and errors that end no process (in threads, in finalisers) are one line each."""

    def aside(args: "threading.ExceptHookArgs | sys.UnraisableHookArgs") -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            complain(described(args.exc_value, "a part of the work")[1])

    before = warnings.formatwarning, threading.excepthook, sys.unraisablehook
    warnings.formatwarning = warned
    if not os.environ.get(TRACEBACK):
        threading.excepthook = sys.unraisablehook = aside
    try:
        yield
    finally:
        warnings.formatwarning, threading.excepthook, sys.unraisablehook = before


def log_folder() -> Path:
    """Where logs are kept: in the user's folder for the state of programs.

    Raises:
        RuntimeError: the user has no home.
    """
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".local" / "state") / "steelman"


def _message(error: BaseException) -> str:
    try:
        return one_line(str(error))
    except Exception:  # another library's class may fail at that too
        return ""


def _is_explained(error: Exception) -> bool:
    """Whether a message is Steelman's own, or names a file: then the user needs no details."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.filename is not None
    import dis

    here = str(Path(__file__).parent) + os.sep
    if type(error.__cause__).__name__ == "_RemoteTraceback":  # raised in another process
        places = re.findall(r'File "([^"]+)"', str(error.__cause__))
        return bool(places) and places[-1].startswith(here)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None or not place.tb_frame.f_code.co_filename.startswith(here):
        return False
    # What Python itself raises within our code, as int("x") does, was not written for the user.
    return dis.opname[place.tb_frame.f_code.co_code[place.tb_lasti]] == "RAISE_VARARGS"


def _logged(error: BaseException, verb: str) -> str:
    """Write the log, in the user's folder or else in a temporary one; returns where."""
    import tempfile

    def write(path: Path) -> Path:
        path.write_text(_details(error, verb), encoding="utf-8", errors="backslashreplace")
        return path

    try:
        try:
            folder = log_folder()
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{verb or 'steelman'}-{os.getpid()}"
            path = write(folder / (re.sub(r"[^\w]+", "-", name) + ".log"))
            for old in sorted(folder.glob("*.log"))[:-KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, RuntimeError):
            handle, name = tempfile.mkstemp(".log", "steelman-")
            os.close(handle)
            path = write(Path(name))
    except Exception as other:  # memory or disk are full: the error itself still has to be shown
        return f"the details could not be written ({type(other).__name__}): {TRACEBACK}=1 shows them"
    return f"details are in {path}"


def _details(error: BaseException, verb: str) -> str:
    import platform
    import traceback
    from importlib.metadata import PackageNotFoundError, version

    from steelman.files import command

    lines = [
        f"{verb or 'steelman'} failed at {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
        f"command: {command()}",
        f"folder: {os.getcwd()}",
        f"python {platform.python_version()}, {platform.platform()}",
    ]
    for package in ("steelman", "torch", "numpy", "typer", "rich", "pyarrow", "safetensors"):
        with suppress(PackageNotFoundError):
            lines.append(f"{package} {version(package)}")
    variables = ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
    lines += [f"{name}={os.environ[name]}" for name in variables if name in os.environ]
    return "\n".join(lines) + "\n\n" + "".join(traceback.format_exception(error))


def _output_is_closed(error: BaseException) -> bool:
    """Whether standard output cannot be written any more, as after `| head`; rich then ends the process itself."""
    chain = (error, error.__context__ if isinstance(error, SystemExit) else None)
    if not any(isinstance(each, BrokenPipeError) for each in chain):
        return False
    if isinstance(error, SystemExit):
        return True
    import select

    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(found & select.POLLERR for _, found in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no such call in this system, or no such file
        return True


def _exit_silently() -> NoReturn:
    """End the process; what is still to be written is discarded, or Python would complain."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)

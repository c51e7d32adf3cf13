"""What the command says when something fails: one line, and for what was not foreseen a log file with the details."""

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
"""The environment variable under which the command shows tracebacks."""
KEPT = 20
"""How many logs are kept."""
LONGEST = 400
"""Characters of an unforeseen error's message that are shown; the log has all of it."""

USERS = (ValueError, OSError, ImportError)
"""What is raised for a mistake of the user: exit code 2."""
REMEDIES: tuple[tuple[str, str], ...] = (
    ("MemoryError", "take fewer images at once, or a smaller network"),
    ("OutOfMemoryError", "take fewer images at once, or a smaller network"),
    ("BrokenExecutor", "a process ended before its work did, perhaps for want of memory: take fewer --workers"),
)


@contextmanager
def guarded(verb: str = "") -> Iterator[None]:
    """Whatever is raised in the block ends the process, with one line on standard error and an exit code.

    1 for what was not foreseen and for a training that diverged, 2 for a mistake of the user, 130 for an interrupt, 141
    in silence where the reader of standard output has gone. Errors of options, which the command's parser shows, pass;
    under STEELMAN_TRACEBACK=1 all pass.

    verb  what is being done. Without it, SystemExit passes: it is the parser's. Within a verb it is somebody else's
    """
    try:
        yield
    except BaseException as error:
        ours = hasattr(error, "exit_code") or (isinstance(error, SystemExit) and not verb)
        if ours or os.environ.get(TRACEBACK):
            raise
        if _reader_has_gone(error):
            _leave_silently()
        code, line = described(error, verb)
        complain(line, everywhere=code != 130)
        sys.exit(code)


def described(error: BaseException, verb: str = "") -> tuple[int, str]:
    """An exit code and a line for an error; the details of what was not foreseen are written to a log.

    verb  what failed, with which the line of such an error begins; "" where that is said elsewhere
    """
    if isinstance(error, KeyboardInterrupt):
        return 130, _message(error) or "interrupted"
    if _diverged(error):
        return 1, _message(error)
    if isinstance(error, USERS):
        text = _users(error)
        return 2, text if _is_explained(error) else f"{text}; {_written(error, verb)}"
    text = _message(error)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    kinds = {kind.__name__ for kind in type(error).__mro__}
    remedy = next((f" ({text})" for kind, text in REMEDIES if kind in kinds), "")
    said = ": ".join(part for part in (type(error).__name__, text) if part)
    return 1, f"{verb + ' failed: ' if verb else ''}{said}{remedy}; {_written(error, verb)}"


def one_line(text: str) -> str:
    """A text in one line, without what could move a terminal's cursor."""
    joined = re.sub(r"\s*[\r\n]+\s*", " ", text.strip())
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in joined)


def complain(text: str, everywhere: bool = True) -> None:
    """A line on standard error. Of several processes each says which it is, or only the first one speaks."""
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
    """Where logs are kept: in the user's folder for what programs remember.

    Raises:
        RuntimeError: the user has no home.
    """
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".local" / "state") / "steelman"


def _message(error: BaseException) -> str:
    try:
        return one_line(str(error))
    except Exception:  # a class of somebody else's may fail at that too
        return ""


def _diverged(error: BaseException) -> bool:
    play = sys.modules.get("steelman.training.step")  # where it was not imported, it was not raised
    return play is not None and isinstance(error, play.Diverged)


def _users(error: Exception) -> str:
    """A message for one who knows what was given, not how it was read."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        path = error.filename
        name = "" if path is None else f"{os.fsdecode(path) if isinstance(path, bytes) else path}: "
        return one_line(f"{name}{error.strerror}")
    return _message(error) or type(error).__name__


def _is_explained(error: Exception) -> bool:
    """Whether a message is one of ours, or names a file: then it says all that the user needs."""
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


def _written(error: BaseException, verb: str) -> str:
    """Write the log, and say where."""
    try:
        text = _log(error, verb)
        try:
            path = _in_log_folder(text, verb)
        except (OSError, RuntimeError):
            path = _in_temporary_folder(text)
    except Exception as other:  # memory or disk are full: the error itself still has to be shown
        return f"the details could not be written ({type(other).__name__}): {TRACEBACK}=1 shows them"
    return f"details are in {path}"


def _log(error: BaseException, verb: str) -> str:
    import platform
    import traceback

    from steelman.files import command

    lines = [
        f"{verb or 'steelman'} failed at {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
        f"command: {command()}",
        f"folder: {os.getcwd()}",
        f"python {platform.python_version()}, {platform.platform()}",
        *map(_version, ("steelman", "torch", "numpy", "typer", "rich", "pyarrow", "safetensors")),
        *(
            f"{name}={os.environ[name]}"
            for name in ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
            if name in os.environ
        ),
        "",
    ]
    return "\n".join(lines) + "\n" + "".join(traceback.format_exception(error))


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed"


def _in_log_folder(text: str, verb: str) -> Path:
    folder = log_folder()
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w]+", "-", f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{verb or 'steelman'}-{os.getpid()}")
    path = folder / f"{name}.log"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    for old in sorted(folder.glob("*.log"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def _in_temporary_folder(text: str) -> Path:
    from tempfile import NamedTemporaryFile

    kept = {"prefix": "steelman-", "suffix": ".log", "delete": False}
    with NamedTemporaryFile("w", encoding="utf-8", errors="backslashreplace", **kept) as file:
        file.write(text)
    return Path(file.name)


def _reader_has_gone(error: BaseException) -> bool:
    """Whether standard output cannot be written any more, as after `| head`; rich ends the process then by itself."""
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


def _leave_silently() -> NoReturn:
    """What is still to be written goes nowhere, or Python complains when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)

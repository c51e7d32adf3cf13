"""The progress bar, on standard error: silent unless that is a terminal, or a notebook with ipywidgets, and rich is
installed."""

import sys
from importlib.util import find_spec


class ProgressBar:
    """A title, how much is done, a note, and the time that has passed and is left; names are shown as they are.

    shown  whether the caller wants a bar
    total  how many steps there are
    """

    def __init__(self, shown: bool, total: int, title: str = "") -> None:
        self._bar = None
        if not (shown and total and find_spec("rich") and (sys.stderr.isatty() or _in_notebook())):
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total, note="")

    def __enter__(self) -> "ProgressBar":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """So many more steps are done."""
        if self._bar:
            self._bar.update(self._task, advance=steps, note=note)

    def set(self, steps: int | None = None, title: str | None = None) -> None:
        """How many steps are done, and what is done now."""
        if self._bar:
            self._bar.update(self._task, completed=steps, description=title)


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook that can change what it has shown; without ipywidgets it cannot."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") and find_spec("ipywidgets") is not None

"""The progress bar of training: silent unless a person watches."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any


class TrainingBar:
    """Epochs and batches done, losses, the latest accuracies, the time left; on standard error if it is a terminal."""

    def __init__(self, wanted: bool, epochs: int, batches: int) -> None:
        self._bar = None
        self._latest = ""
        self._epochs, self._batches = epochs, batches
        if not (wanted and sys.stderr.isatty()):
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
        )
        self._task = self._bar.add_task("training", total=epochs * batches, note="")

    def __enter__(self) -> "TrainingBar":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def at(self, epoch: int, batch: int) -> None:
        """Where training goes on."""
        if self._bar:
            self._bar.update(self._task, completed=epoch * self._batches + batch)

    def step(self, losses: Mapping[str, float]) -> None:
        if self._bar:
            shown = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
            self._bar.update(self._task, advance=1, note=f"{shown}{self._latest}")

    def line(self, line: dict[str, Any]) -> None:
        """Show what was measured at the end of an epoch."""
        named = {"test_clean": "test", "test_rho_2": "rho_2"}
        shown = ("clean", "robust", "generated", *named)
        self._latest = "".join(f"  {named.get(key, key)} {line[key]:.4f}" for key in shown if key in line)
        if self._bar:
            self._bar.update(self._task, description=f"epoch {min(line['epoch'] + 1, self._epochs)}")

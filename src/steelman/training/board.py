"""Curves for TensorBoard, where the user wants them."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class Board:
    """Writes each number of an epoch's line as a scalar into `folder`/tensorboard; does nothing without a folder.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._writer = folder, None
        if folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError("TensorBoard is not installed: pip install steelman[tensorboard]") from error
            self._open = SummaryWriter

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def line(self, line: Mapping[str, Any]) -> None:
        if self._folder is None:
            return
        if self._writer is None:
            # After a resume, what an earlier process wrote of this epoch and later ones is void.
            self._writer = self._open(str(self._folder / "tensorboard"), purge_step=line["epoch"])
        for name, value in line.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()

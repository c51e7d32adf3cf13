"""Experiment trackers: what a run logs is also sent to TensorBoard or MLflow, where the user wants that."""

import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, final

from steelman.extras import require
from steelman.files import write_text


class Tracker(ABC):
    """An experiment tracker. It is made before any work, so that a missing package is reported at once."""

    @abstractmethod
    def line(self, line: Mapping[str, Any]) -> None:
        """The numbers of one epoch; "epoch" is the step."""

    @abstractmethod
    def results(self, measures: Mapping[str, float], files: Sequence[Path]) -> None:
        """The measures of an evaluation, and the files of its report."""

    @abstractmethod
    def close(self, status: str) -> None:
        """`status` is "FINISHED" or "FAILED"."""


@final
class TensorBoard(Tracker):
    """Scalars in `folder`/tensorboard; measures under "evaluation/", and the paths of the report as text.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require("TensorBoard", "tensorboard", extra="tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._open, self._folder, self._writer = SummaryWriter, str(folder / "tensorboard"), None

    def line(self, line: Mapping[str, Any]) -> None:
        if self._writer is None:
            # After a resume, what an earlier process wrote of this and later epochs is dropped.
            self._writer = self._open(self._folder, purge_step=line["epoch"])
        for name, value in line.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()

    def results(self, measures: Mapping[str, float], files: Sequence[Path]) -> None:
        self._writer = self._writer or self._open(self._folder)
        for name, value in measures.items():
            self._writer.add_scalar(f"evaluation/{_plain(name)}", value)
        self._writer.add_text("evaluation", "\n\n".join(map(str, files)))

    def close(self, status: str) -> None:
        if self._writer is not None:
            self._writer.close()


@final
class MLflow(Tracker):
    """Metrics and files of an MLflow run, where MLflow itself looks for its store (MLFLOW_TRACKING_URI).

    The run's id is kept in `folder`/mlflow-run, so that what is resumed or evaluated later goes into the same run. The
    experiment is "steelman", or MLFLOW_EXPERIMENT_NAME.

    Raises:
        ImportError: MLflow is not installed.
    """

    def __init__(self, folder: Path) -> None:
        require("MLflow", "mlflow", extra="mlflow")
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        self._client, self._metric, self._folder, self._run = MlflowClient(), Metric, folder, ""

    def line(self, line: Mapping[str, Any]) -> None:
        self._log({name: value for name, value in line.items() if name != "epoch"}, line["epoch"])

    def results(self, measures: Mapping[str, float], files: Sequence[Path]) -> None:
        self._log({f"evaluation/{name}": value for name, value in measures.items()}, 0)
        for path in files:
            self._client.log_artifact(self._run, str(path), "evaluation")

    def close(self, status: str) -> None:
        if self._run:
            self._client.set_terminated(self._run, status)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self._run = self._run or self._begin()
        now = int(1000 * time.time())
        metrics = [
            self._metric(_plain(name), float(value), now, step)
            for name, value in values.items()
            if isfinite(value)  # MLflow turns infinity into the largest number
        ]
        self._client.log_batch(self._run, metrics)

    def _begin(self) -> str:
        note = self._folder / "mlflow-run"
        if note.is_file():
            run = note.read_text(encoding="utf-8").strip()
            self._client.update_run(run, "RUNNING")
            return run
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "steelman")
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        run = self._client.create_run(experiment, run_name=self._folder.resolve().name).info.run_id
        write_text(note, run + "\n")
        return run


KINDS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow}


@final
class Trackers:
    """The trackers that the user wants; a context that closes them at its end."""

    def __init__(self, folder: Path | None, names: Sequence[str]) -> None:
        self._trackers = [] if folder is None else [KINDS[name](folder) for name in names]

    def __iter__(self) -> Iterator[Tracker]:
        return iter(self._trackers)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        for tracker in self._trackers:
            tracker.close("FINISHED" if error is None else "FAILED")


def _plain(name: str) -> str:
    """A name that both trackers accept."""
    return re.sub(r"[^\w\-./]+", " ", name).strip()

"""TensorBoard and MLflow: every number where it belongs, once."""

import sys
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from made_up import table_of
from steelman.training import Training
from steelman.training.fingerprint import FREE
from steelman.training.trackers import MLflow, TensorBoard, Trackers


class Client:
    """A stand-in for mlflow.MlflowClient, with the methods that are asked for and their signatures."""

    runs: dict[str, SimpleNamespace]

    def get_experiment_by_name(self, name: str):
        found = [run for run in self.runs.values() if run.experiment == name]
        return SimpleNamespace(experiment_id=name) if found else None

    def create_experiment(self, name: str) -> str:
        assert self.get_experiment_by_name(name) is None
        return name

    def create_run(self, experiment_id: str, start_time=None, tags=None, run_name=None):
        name = f"id{len(self.runs)}"
        self.runs[name] = SimpleNamespace(
            experiment=experiment_id, name=run_name, metrics=[], files=[], status="RUNNING"
        )
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def update_run(self, run_id: str, status=None, name=None) -> None:
        self.runs[run_id].status = status

    def log_batch(self, run_id: str, metrics=(), params=(), tags=()) -> None:
        self.runs[run_id].metrics += [(metric.key, metric.value, metric.step) for metric in metrics]

    def log_artifact(self, run_id: str, local_path: str, artifact_path=None) -> None:
        self.runs[run_id].files.append((Path(local_path).name, artifact_path))

    def set_terminated(self, run_id: str, status=None, end_time=None) -> None:
        self.runs[run_id].status = status


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimpleNamespace]:
    """The runs of a stand-in for MLflow."""
    monkeypatch.setattr(Client, "runs", {}, raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    entities = ModuleType("mlflow.entities")
    entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)  # pyright: ignore[reportAttributeAccessIssue]
    module = ModuleType("mlflow")
    module.__spec__ = ModuleSpec("mlflow", None)
    module.MlflowClient = Client  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return Client.runs


def test_mlflow_keeps_training_and_evaluation_in_one_run(mlflow: dict[str, SimpleNamespace], tmp_path: Path):
    folder = tmp_path / "runs" / "mine"
    with suppress(KeyboardInterrupt), Trackers(folder, ["mlflow"]) as trackers:
        for tracker in trackers:
            tracker.line({"epoch": 0, "clean": 0.1})
            tracker.line({"epoch": 1, "clean": 0.5, "loss": 2.0})
        raise KeyboardInterrupt
    assert mlflow["id0"].status == "FAILED"
    with Trackers(folder, ["mlflow"]) as trackers:
        for tracker in trackers:
            tracker.line({"epoch": 2, "clean": 0.7})
            assert mlflow["id0"].status == "RUNNING"
            tracker.results({"accuracy, PGD(eps=0.1)": 0.4, "median": float("inf")}, [folder / "report.html"])
    (run,) = mlflow.values()
    assert (run.name, run.experiment, run.status) == ("mine", "steelman", "FINISHED")
    assert run.metrics == [
        ("clean", 0.1, 0), ("clean", 0.5, 1), ("loss", 2.0, 1), ("clean", 0.7, 2),
        ("evaluation/accuracy PGD eps 0.1", 0.4, 0),
    ]  # fmt: skip
    assert run.files == [("report.html", "evaluation")]


def test_mlflow_may_name_another_experiment(mlflow: dict[str, SimpleNamespace], tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    for name in ("one", "two"):
        with Trackers(tmp_path / name, ["mlflow"]) as trackers:
            for tracker in trackers:
                tracker.results({}, [])
    assert [run.experiment for run in mlflow.values()] == ["theirs", "theirs"]
    with Trackers(tmp_path / "three", ["mlflow"]):
        pass
    assert len(mlflow) == 2  # nothing was said, so nothing was begun


def test_tensorboard_has_the_measures_too(tmp_path: Path):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with Trackers(tmp_path, ["tensorboard"]) as trackers:
        for tracker in trackers:
            tracker.results({"accuracy, PGD(eps=0.1)": 0.25}, [tmp_path / "report.html"])
    events = loader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (event,) = events.Scalars("evaluation/accuracy PGD eps 0.1")
    assert event.value == 0.25


@pytest.mark.parametrize(("kind", "module"), [(TensorBoard, "tensorboard"), (MLflow, "mlflow")])
def test_without_them_the_remedy_is_named(kind: type, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'steelman\[{kind.__name__.lower()}\]'"):
        kind(tmp_path)


def test_they_are_chosen_in_settings_that_change_nothing_else():
    assert Training().trackers == []
    assert Training(tensorboard=True, mlflow=True).trackers == ["tensorboard", "mlflow"]
    assert {"tensorboard", "mlflow"} <= set(FREE)


def test_a_table_is_handed_over_to_frames(monkeypatch: pytest.MonkeyPatch):
    table = table_of([])
    polars = ModuleType("polars")
    polars.__spec__ = ModuleSpec("polars", None)
    polars.from_arrow = lambda given: given is table.table  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "polars", polars)
    assert table.to_polars() is True
    for name in ("polars", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=rf"pip install 'steelman\[{name}\]'"):
            getattr(table, f"to_{name}")()

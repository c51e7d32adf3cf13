"""A real Dask scheduler and two workers: the same tables as alone, and what happens when a process is killed."""

import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steelman.attacks import FGSM, PGD
from steelman.clusters import connected, executor_of, remote
from steelman.clusters.cluster import DaskExecutor
from steelman.data import Digits, Streamed
from steelman.evaluation import evaluate, transfer
from steelman.experiments.sweep import sweep
from steelman.experiments.sweep_results import SweepResults
from steelman.failures import described
from steelman.papers.reproduce import reproduce
from steelman.table import Evaluation
from steelman.trust import Untrusted, imported, trusting
from steelman.workers import ClusterLost, each

pytest.importorskip("distributed")

import forks
from dask_here import Here, dask_here

pytestmark = [
    pytest.mark.xdist_group("forks"),
    pytest.mark.skipif(os.name != "posix", reason="signals and process groups"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed", "ignore::ResourceWarning"),
]

ATTACKS = {"weak": FGSM(eps=0.1), "strong": PGD(eps=0.1, steps=3)}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with dask_here(tmp_path_factory.mktemp("dask")) as found:
        yield found


@pytest.fixture(scope="module")
def executor(here: Here) -> Iterator[DaskExecutor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* has no worker yet")
        connection = connected(here.address)
        found = connection.__enter__()
    found.client.wait_for_workers(2, timeout=120)
    yield found
    connection.__exit__(None, None, None)


@pytest.fixture(scope="module")
def digits():
    return Digits().load("test").subset(torch.arange(60))


def network(hidden: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)).eval()


def same(one: Evaluation, other: Evaluation) -> None:
    assert one.table.drop_columns(["seconds"]) == other.table.drop_columns(["seconds"])
    assert one.about == other.about


def test_only_margins_differ_and_by_rounding_where_survivors_are_gathered(executor: DaskExecutor, digits):
    """One process attacks what is left of several blocks together, and the size of a batch decides the last bit."""
    how: dict[str, Any] = {"batch_size": 5, "survivors_only": True, "progress": False}
    ours, alone = (evaluate(network(), digits, ATTACKS, executor=each, **how) for each in (executor, None))
    exact = [name for name in ours.table.column_names if name not in ("seconds", "margin", "loss")]
    assert ours.table.select(exact) == alone.table.select(exact)
    for name in ("margin", "loss"):
        np.testing.assert_allclose(ours[name], alone[name], rtol=1e-5, atol=1e-6)


def test_a_table_is_that_of_one_process_and_the_model_is_sent_once(executor: DaskExecutor, digits):
    net, before = network(2000), executor.sent
    model = len(pickle.dumps(net))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = evaluate(net, digits, ATTACKS, batch_size=5, executor=executor, progress=False)
    same(ours, evaluate(net, digits, ATTACKS, batch_size=5, progress=False))
    assert model < executor.sent - before < 1.2 * model, "12 blocks, and the model once"
    end = time.monotonic() + 60
    while executor.client.futures:
        assert time.monotonic() < end, "results that are held would be made again where a worker ends"
        time.sleep(0.02)


def test_a_model_of_a_script_is_sent_by_value(executor: DaskExecutor, digits):
    weights = torch.arange(640.0).reshape(64, 10).cos()
    ours = evaluate(lambda x: x.flatten(1) @ weights, digits, [FGSM(eps=0.1)], executor=executor, progress=False)
    alone = evaluate(lambda x: x.flatten(1) @ weights, digits, [FGSM(eps=0.1)], progress=False)
    assert ours.table.drop_columns(["seconds", "record"]) == alone.table.drop_columns(["seconds", "record"])


def slow(job: tuple[int, str]) -> int:
    number, folder = job
    (Path(folder) / f"{number}-{os.getpid()}").touch()
    time.sleep(0.1)
    return 2 * number


def ends(job: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_loses_nothing(executor: DaskExecutor, tmp_path: Path):
    results = each(slow, ((number, str(tmp_path)) for number in range(30)), executor)
    found = [next(results)]
    begun = {path.name.split("-")[1] for path in tmp_path.iterdir()}
    os.kill(int(begun.pop()), signal.SIGKILL)
    found += results
    assert sorted(found) == list(range(0, 60, 2)), "each once"


def test_work_that_ends_its_workers_is_an_error_with_a_remedy(executor: DaskExecutor):
    executor.client.wait_for_workers(2, timeout=120)
    with pytest.raises(ChildProcessError, match=r"ended 2 Dask workers, perhaps for lack of memory: take fewer images"):
        list(each(ends, [1], executor))
    executor.client.wait_for_workers(2, timeout=120)


def fails(job: int) -> None:
    warnings.warn("a warning\nof two lines", stacklevel=1)
    imported("os:getcwd", from_file=True)


def test_errors_and_warnings_of_workers_are_those_of_one_process(executor: DaskExecutor):
    with pytest.warns(UserWarning, match="a warning"), pytest.raises(Untrusted, match="standard library") as caught:
        list(each(fails, [1], executor))
    assert "in fails" in str(caught.value.__cause__)
    code, line = described(caught.value, "evaluate")
    assert (code, line.count("\n")) == (2, 0)
    assert "details are in" not in line


class Strange(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("a strange one")


def raises(job: int) -> None:
    raise Strange(1, 2)


def test_an_exception_that_cannot_be_made_again_is_told(executor: DaskExecutor):
    with pytest.raises(RuntimeError, match="Strange: a strange one"):
        list(each(raises, [1], executor))


def seen(job: int) -> tuple[Any, ...]:
    function = imported("own_module:answer", from_file=True)
    return (
        os.getcwd(),
        function(),
        sys.path[0],
        sys.path[-1],
        torch.get_num_threads(),
        os.environ.get("STEELMAN_DEVICE"),
    )


def test_workers_trust_and_find_what_this_process_does(executor: DaskExecutor, tmp_path, monkeypatch):
    (tmp_path / "own_module.py").write_text("def answer(): return 42")
    (tmp_path / "wave.py").write_text("raise AssertionError('shadowed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setenv("STEELMAN_DEVICE", "cpu")
    with trusting("own_module"):
        (found,) = each(seen, [1], executor)
    folder, answer, first, last, threads, device = found
    assert (folder, answer, threads, device) == (str(tmp_path), 42, 1, "cpu")
    assert first != str(tmp_path)
    assert last == str(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(Untrusted, match="own_module"):
        list(each(seen, [1], executor))


def test_other_versions_are_refused(executor: DaskExecutor, monkeypatch):
    monkeypatch.setattr(remote, "versions", lambda: {**actual, "torch": "1.0"} if (actual := VERSIONS) else {})
    with pytest.raises(ValueError, match=r"has torch .* instead of 1\.0: install the same versions everywhere"):
        list(each(abs, [1], executor))


VERSIONS = remote.versions()


class Pictures:
    """Items that lie in files, one each."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 20

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        image = np.load(Path(self.folder) / f"{place}.npy")
        return torch.from_numpy(image), int(image[0, 0, 0]) % 10


def test_workers_read_files_themselves_where_they_find_them(executor: DaskExecutor, tmp_path: Path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(20):
        np.save(folder / f"{place}.npy", np.random.default_rng(place).integers(0, 256, (1, 8, 8), np.uint8))
    data = Streamed("pictures", Pictures(str(folder)), (1, 8, 8), tuple("abcdefghij"))
    alone, before = evaluate(network(), data, ATTACKS, batch_size=5, progress=False), executor.sent
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(evaluate(network(), data, ATTACKS, batch_size=5, executor=executor, progress=False), alone)
    read = executor.sent - before
    moved = folder.rename(tmp_path / "elsewhere")  # what this process reads, and others do not find
    data.items.folder = str(moved)
    elsewhere = replaced_in_workers(data, str(folder))
    before = executor.sent
    with pytest.warns(UserWarning, match="a worker cannot read the images itself, so they are sent: FileNotFoundError"):
        same(evaluate(network(), elsewhere, ATTACKS, batch_size=5, executor=executor, progress=False), alone)
    assert executor.sent - before > read + 20 * 64


class Moved(Pictures):
    """Whose folder has another name in another process."""

    def __reduce__(self):
        return Pictures, (self.other,)


def replaced_in_workers(data: Streamed, folder: str) -> Streamed:
    items = Moved(data.items.folder)  # pyright: ignore
    items.other = folder
    return Streamed(data.name, items, data.shape, data.classes)


def test_rows_say_where_they_were_made(executor: DaskExecutor, digits, monkeypatch):
    """A client with other hardware than the workers."""
    from steelman.table import records

    alone = evaluate(network(), digits, ATTACKS, progress=False)
    monkeypatch.setattr(records, "_processor", lambda: "Another processor")
    ours = evaluate(network(), digits, ATTACKS, batch_size=20, executor=executor, progress=False)
    assert {record.made.hardware for record in ours.records} == {record.made.hardware for record in alone.records}
    same(ours, alone)


def test_a_gpu_is_taken_by_one_process(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(remote, "_uuid", str)
    monkeypatch.setattr(remote, "_held", held := [])
    assert [remote.gpu.__wrapped__(2, str(tmp_path)) for _ in range(5)] == [0, 1, 0, 1, 0]
    held[1].release()
    assert remote.gpu.__wrapped__(2, str(tmp_path)) == 1, "the process that had it has ended"


RECIPE = """
data = "Digits"
network = { kind = "MLP", hidden = [8] }
defence = "Plain"
training = { epochs = 1, batch_size = 200, optimiser = { kind = "Adam", lr = 0.02 } }
evaluation = { images = 20, attacks = { FGSM = { kind = "FGSM", eps = 0.05 } } }
"""
PAPER = """
[paper]
title = "A small paper"
authors = ["A. Nonymous"]
venue = "Nowhere 2018"
[evaluation.fgsm]
images = 20
attacks.FGSM = { kind = "FGSM", eps = 0.05 }
[table.1]
caption = "Two networks."
columns = ["Acc."]
unit = "%"
evaluation = "fgsm"
measures = ["accuracy, FGSM"]
rows = [
  { name = "One", dataset = "Digits", values = [50.0], recipe = "ROOT/tiny.toml" },
  { name = "Two", dataset = "Digits", values = [50.0], recipe = "ROOT/other.toml" },
]
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)  # so that relative paths are, which the workers do not have as theirs
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "other.toml").write_text(RECIPE.replace("0.02", "0.01"))
    (tmp_path / "small.toml").write_text(PAPER.replace("ROOT", str(tmp_path)))
    return tmp_path


def test_a_sweep_trains_on_a_cluster_what_it_trains_alone(executor: DaskExecutor, root: Path, monkeypatch):
    monkeypatch.setattr(SweepResults, "write", lambda _: None)  # draws
    found = [
        sweep("tiny.toml", ["training.optimiser.lr=0.02,0.01"], Path(runs), cluster=cluster, say=lambda _: None)
        for runs, cluster in (("there", executor), ("here", None))
    ]
    there, here = ([(each.values, each.measures, each.failed) for each in one.networks] for one in found)
    assert there == here
    assert all(measures for _, measures, _ in here)
    for path in Path("here").glob("*/*/best.safetensors"):
        assert (Path("there") / path.relative_to("here")).read_bytes() == path.read_bytes()


def test_a_paper_is_made_on_a_cluster(executor: DaskExecutor, root: Path):
    found = [
        reproduce("small.toml", runs=Path(f"runs-{name}"), folder=Path(name), executor=executor, say=lambda _: None)
        for name, executor in (("there", executor), ("here", None))
    ]
    assert found[0].failed == found[1].failed == {}
    there, here = ({name: each["measures"] for name, each in one.results.evaluations.items()} for one in found)
    assert there == here


def test_images_are_crafted_on_a_cluster_once(executor: DaskExecutor, digits, tmp_path: Path):
    nets = {"A": network(), "B": network(24)}
    how: dict[str, Any] = {"batch_size": 20, "progress": False}
    there = transfer(nets, nets, digits, PGD(eps=0.1, steps=2), executor=executor, folder=tmp_path / "there", **how)
    alone = transfer(nets, nets, digits, PGD(eps=0.1, steps=2), folder=tmp_path / "here", **how)
    assert (there.accuracy, there.clean, there.worst) == (alone.accuracy, alone.clean, alone.worst)
    crafted = [sorted(path.name for path in (tmp_path / name).glob("crafted/*/*")) for name in ("there", "here")]
    assert crafted[0] == crafted[1] != []


LOCAL = """
kind = "distributed:LocalCluster"
workers = 1
settings = { n_workers = 0, threads_per_worker = 1, processes = false, dashboard_address = ":0" }
"""


def test_a_file_starts_a_cluster(tmp_path: Path, digits):
    (tmp_path / "cluster.toml").write_text(LOCAL)
    with (
        pytest.raises(Untrusted, match=r"cluster\.toml names 'distributed:LocalCluster'"),
        connected(tmp_path / "cluster.toml"),
    ):
        pass
    with trusting("distributed"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* has no worker yet")
        with connected(tmp_path / "cluster.toml") as local:
            ours = evaluate(network(), digits, ATTACKS, batch_size=30, executor=local, progress=False)
    same(ours, evaluate(network(), digits, ATTACKS, batch_size=30, progress=False))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = [", "is not TOML"),
        ("jobs = 2", "needs a kind"),
        (
            'kind = "distributed:LocalCluster"\nqueue = "gpu"',
            "has 'queue'; a cluster has kind, workers, jobs, adapt, settings",
        ),
        ('kind = "distributed:LocalCluster"\njobs = 2\nworkers = 2', "at most one of workers, jobs, adapt"),
        ('kind = "distributed:LocalCluster"\nadapt = 2', "adapt is a table; got 2"),
        ('kind = "distributed:LocalCluster"\nsettings = { n_workers = "two" }', "cannot be started: "),
        ('kind = "distributed:Nothing"', "'Nothing' is not there"),
    ],
    ids=range(7),
)
def test_a_file_that_describes_no_cluster_is_refused(text: str, message: str, tmp_path: Path):
    (tmp_path / "cluster.toml").write_text(text)
    with trusting("distributed"), pytest.raises(ValueError, match=message), connected(tmp_path / "cluster.toml"):
        pass


def test_what_is_no_cluster_is_refused(tmp_path: Path, monkeypatch):
    with pytest.raises(ValueError, match="there is no such file; give the address"), connected(tmp_path / "none.toml"):
        pass
    with pytest.raises(ValueError, match="leave one out"), executor_of(2, "tcp://127.0.0.1:1"):
        pass
    monkeypatch.setattr("steelman.clusters.cluster.PATIENCE", 0.5)
    with (
        pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"),
        connected("tcp://127.0.0.1:1"),
    ):
        pass
    with executor_of() as none:
        assert none is None


MODULE = """
import os, time, torch
class Model(torch.nn.Linear):
    def forward(self, x):
        if os.path.exists("slowly"): time.sleep(.05)
        return super().forward(x.flatten(1))
torch.manual_seed(0)
model = Model(64, 10)
"""


def test_a_scheduler_that_goes_away_is_one_line_and_the_table_goes_on(
    here: Here, executor: DaskExecutor, tmp_path: Path
):
    """The last test with this scheduler."""
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "slowly").touch()
    (tmp_path / "few.toml").write_text("attacks = { FGSM = { kind = 'FGSM', eps = 0.1 } }")
    words = ["mine:model", "--data", "Digits", "--battery", "few.toml", "--images", "50", "--batch-size", "5"]
    command = [sys.executable, "-m", "steelman", "evaluate", *words, "--adaptive", "never", "--folder", "table"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}

    def evaluated(*more: str) -> forks.Popen:
        return forks.Popen([*command, *more], stdout=forks.PIPE, stderr=forks.PIPE, text=True, cwd=tmp_path, env=env)

    process, parts = evaluated("--cluster", here.address), tmp_path / "table" / "parts"
    end = time.monotonic() + 120
    while len(list(parts.glob("*.parquet"))) < 2:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    here.scheduler.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert err == f"steelman: {here.address} has gone: what is finished is kept, and the same call goes on\n"
    assert 2 <= len(list(parts.glob("*.parquet"))) < 10
    (tmp_path / "slowly").unlink()
    for more in ((), ("--folder", "alone")):
        _, err = (process := evaluated(*more)).communicate(timeout=120)
        assert process.returncode == 0, err
    resumed, alone = (Evaluation.load(tmp_path / name / "table.parquet") for name in ("table", "alone"))
    assert resumed.table.drop_columns(["seconds", "record"]) == alone.table.drop_columns(["seconds", "record"])
    with pytest.raises(ClusterLost, match="has gone"):
        list(each(abs, [1], executor))

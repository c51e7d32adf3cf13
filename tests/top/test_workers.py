"""Processes of this machine: the cores they share, what is sent to them, and how they end."""

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
import pytest

from steelman import workers as module
from steelman.workers import ClusterLost, Sent, _quotas, check_shared, cores, each, workers


def groups(root: Path, lines: str, files: dict[str, str]) -> Path:
    named = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for path, text in {"proc/self/cgroup": lines, **named}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "files", "quotas"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/not/seen\n", {"cpu.max": "400000 100000\n"}, [4.0]),
        (
            "5:memory:/job\n2:cpu,cpuacct:/job\n",
            {"cpu/job/cpu.cfs_quota_us": "50000\n", "cpu/job/cpu.cfs_period_us": "100000\n", "memory/cpu.max": "1 1"},
            [0.5],
        ),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, []),
        ("0::/\n", {"cpu.max": "nonsense"}, []),
    ],
    ids=["version 2", "in a container", "version 1", "without a quota", "not to be read"],
)
def test_quotas_of_control_groups(tmp_path: Path, lines: str, files: dict[str, str], quotas: list[float]):
    assert list(_quotas(groups(tmp_path, lines, files))) == quotas


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for quotas, count in (([], 8), ([2.5, 16.0], 3), ([0.1], 1)):
        monkeypatch.setattr(module, "_quotas", lambda _, quotas=quotas: iter(quotas))
        assert cores() == count
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(module, "_quotas", lambda _: iter([]))
    assert cores() == 64


def length(job: int, shared: bytes) -> tuple[int, int, int]:
    return job, len(shared), id(shared)


def test_processes_read_what_jobs_share_once():
    with workers(2) as pool:
        assert pool is not None
        found = list(each(length, range(8), pool, shared=bytes(10_000_000)))
        assert sorted(job for job, *_ in found) == list(range(8))
        assert {size for _, size, _ in found} == {10_000_000}
        folder = Path(pool.folder)  # pyright: ignore
        assert folder.is_dir()
        assert not list(folder.iterdir()), "the file is removed with the last job"
    assert not folder.exists()
    assert len(pickle.dumps(Sent("0" * 64, "/tmp/some/file"))) < 300, "what a job has of it"


def found(job: int, names: tuple[str, ...]) -> tuple[int, float, list[str | None], str, float]:
    before = time.process_time()
    time.sleep(0.3)  # so that both have a job
    return os.getpid(), before, [os.environ.get(name) for name in names], os.getcwd(), float(np.random.rand())  # noqa: NPY002


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each process imports what it needs")
def test_processes_are_forks_that_have_imported_already():
    with workers(2) as pool:
        every = list(each(found, range(4), pool, shared=()))
    assert len({pid for pid, *_ in every}) == 2
    assert os.getpid() not in {pid for pid, *_ in every}
    assert max(seconds for _, seconds, *_ in every) < 1, "importing PyTorch takes a core 2 s or more"
    assert len({draw for *_, draw in every}) == 4, "each process draws other numbers"


def test_processes_have_environment_and_folder_of_their_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for value in ("first", "second", None):
        (place := tmp_path / f"{value}").mkdir()
        monkeypatch.chdir(place)
        monkeypatch.setenv("STEELMAN_TEST", value) if value else monkeypatch.delenv("STEELMAN_TEST")
        with workers(2) as pool:
            every = list(each(found, range(2), pool, shared=("STEELMAN_TEST", "PYTHONSAFEPATH")))
        assert {(*names, folder) for _, _, names, folder, _ in every} == {(value, "1", str(place))}


def test_a_value_is_opened_once_and_few_are_kept(tmp_path: Path):
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(pickle.dumps([file.name]))
    values = [Sent(f"test {file.name}", str(file)) for file in files]
    assert values[0].value() is values[0].value()
    assert [each.value() for each in values] == [["a"], ["b"], ["c"]]
    assert len(module._opened) == module.OPENED
    assert values[2].value() is module._opened["test c"]


class Gone(Executor):
    """Cancels what it is given."""

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def test_cancelled_work_is_an_error_that_says_so():
    with pytest.raises(ClusterLost, match="has cancelled the work"):
        list(each(abs, [1], Gone()))


def test_a_folder_that_is_not_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SEEN", 0.01)
    with pytest.raises(ValueError, match="is not shared with"):
        check_shared(tmp_path)
    (tmp_path / ".lock.json").touch()
    check_shared(tmp_path)


KILLED = """
import os, sys, time
from steelman.workers import each, workers

def work(job):
    open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
    time.sleep(600)

if __name__ == "__main__":
    with workers(2) as pool:
        open(os.path.join(sys.argv[1], "folder"), "w").write(pool.folder)
        list(each(work, range(2), pool))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path):
    (tmp_path / "script.py").write_text(KILLED)
    (tmp_path / "pids").mkdir()
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "pids")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until(lambda: len(list((tmp_path / "pids").glob("[0-9]*"))) == 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    pids = [int(path.name) for path in (tmp_path / "pids").glob("[0-9]*")]
    until(lambda: not any(map(runs, pids)))
    until(lambda: not Path((tmp_path / "pids" / "folder").read_text()).exists())


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # a zombie counts as dead
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def until(holds) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)

"""docs/clusters.md: its commands for one machine are run, and its files describe clusters."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import steelman

pytest.importorskip("distributed")

import forks
from steelman.clusters.cluster import KEYS
from steelman.table import Evaluation

pytestmark = [
    pytest.mark.xdist_group("forks"),
    pytest.mark.skipif(os.name != "posix", reason="signals and process groups"),
]

PAGE = (Path(steelman.__file__).parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.S | re.M)
FILES = dict(re.findall(r"^```(?:toml|python)\n# (\S+)\n(.*?)^```$", PAGE, re.S | re.M))
FEW = "attacks = { FGSM = { kind = 'FGSM', eps = 0.1 } }"


@contextmanager
def started(line: str, folder: Path) -> Iterator[None]:
    """A command of Dask's, until the block ends."""
    command = [sys.executable, "-P", "-m", *shlex.split(line.removesuffix("&")), "--no-dashboard"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(line: str, folder: Path) -> Evaluation:
    """The table of a `steelman evaluate`, by one attack alone."""
    assert line.startswith("steelman evaluate mine:model ")
    (folder / "few.toml").write_text(FEW)
    more = ["--battery", "few.toml", "--adaptive", "never", "--folder", "found", "--fresh"]
    command = [sys.executable, "-m", *shlex.split(line), *more]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = forks.Popen(command, cwd=folder, env=env, stdout=forks.PIPE, stderr=forks.PIPE, text=True)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return Evaluation.load(folder / "found" / "table.parquet")


def test_the_commands_for_one_machine_make_one_table(tmp_path: Path):
    """But for `--workers`, which others test."""
    (tmp_path / "mine.py").write_text(FILES["mine.py"])
    (tmp_path / "local.toml").write_text(FILES["local.toml"])
    _, by_hand, by_file = (text for text in COMMANDS if "steelman evaluate mine:model" in text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    scheduler, worker, evaluated = by_hand.replace("8786", port).splitlines()
    with started(scheduler, tmp_path), started(worker, tmp_path):
        tables = [run(evaluated, tmp_path)]
    tables.append(run(by_file.strip(), tmp_path))
    there, here = (each.table.drop_columns(["seconds", "record"]) for each in tables)  # records have the command
    assert there == here
    assert tables[0].images == 100


def test_the_files_describe_clusters():
    described = {name: tomllib.loads(text) for name, text in FILES.items() if name.endswith(".toml")}
    assert set(described) == {"local.toml", "slurm.toml", "pbs.toml", "kubernetes.toml"}
    for told in described.values():
        assert set(told) <= set(KEYS)
        assert len({"workers", "jobs", "adapt"} & set(told)) == 1


def test_the_python_of_the_page_is_python():
    for text in re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M):
        compile(text, "docs/clusters.md", "exec")

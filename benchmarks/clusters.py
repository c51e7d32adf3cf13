"""What a Dask cluster costs and gains: overhead of a block, speed of two workers, the price of a killed one.

`OMP_NUM_THREADS=1 python -m benchmarks.clusters --minutes 10 --page docs/clusters.md`: a LeNet is attacked by PGD on
made images, for about so many minutes of one worker. The same table is made by one Dask worker, by two, by two of which
one is killed in the middle, and by `workers(2)`; all must be equal, but for seconds. All are processes of this machine
with one thread each, and Dask's talk over TCP. It takes about three times the minutes; the machine should be quiet.
"""

import argparse
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import date
from pathlib import Path

import torch
from torch import nn

from steelman.attacks import PGD
from steelman.clusters.cluster import DaskExecutor
from steelman.data import InMemory
from steelman.evaluation import evaluate
from steelman.files import write_text
from steelman.networks import LeNet
from steelman.table import Evaluation
from steelman.table.records import Provenance
from steelman.workers import each, workers

IMAGES = 100
"""In a block."""
BEGIN, END = "<!-- figures of benchmarks/clusters.py -->", "<!-- end of figures -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of one worker")
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--empty", type=int, default=200, help="blocks of the overhead")
    parser.add_argument("--page", type=Path, help="the page that gets the figures")
    parser.add_argument("--note", default="", help="a sentence on the circumstances")
    options = parser.parse_args()
    text = measured(options.minutes, options.blocks, options.empty, options.note)
    print(text)
    if options.page is not None:
        page = options.page.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        write_text(options.page, f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}")


def measured(minutes: float, blocks: int, empty: int, note: str = "") -> str:
    from distributed import Client, LocalCluster

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LeNet(shape=(1, 28, 28), classes=10).eval()
    data = InMemory(
        "made",
        torch.randint(0, 256, (blocks * IMAGES, 1, 28, 28), dtype=torch.uint8),
        torch.randint(0, 10, (blocks * IMAGES,)),
        tuple("0123456789"),
    )
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        cluster.wait_for_workers(2)
        dask = DaskExecutor(client)
        list(each(_nothing, range(8), dask, shared=model))  # both have imported PyTorch
        overheads = [("this process", _overhead(None, data, empty)), ("Dask", _overhead(dask, data, empty))]
        with workers(2) as pool:
            list(each(_nothing, range(8), pool, shared=model))
            overheads.insert(1, ("`--workers 2`", _overhead(pool, data, empty)))
            attack = PGD(eps=0.1, steps=_steps(model, data, minutes * 60 / blocks))

            def run(executor: Executor | None) -> tuple[float, Evaluation]:
                start = time.perf_counter()
                table = evaluate(model, data, [attack], batch_size=IMAGES, executor=executor, progress=False)
                return time.perf_counter() - start, table

            in_pool, first = run(pool)
        before = dask.sent
        two, table = run(dask)
        sent, tables = dask.sent - before, [first, table]
        killer = threading.Timer(two / 2, _kill, [client])
        killer.start()
        killed, table = run(dask)
        assert killer.finished.is_set()
        tables.append(table)
        cluster.scale(1)
        _until(lambda: len(client.scheduler_info()["workers"]) == 1)
        one, table = run(dask)
        tables.append(table)
    plain = [each.table.drop_columns(["seconds"]) for each in tables]
    assert all(each == plain[0] for each in plain), "the tables differ"
    whole = len(pickle.dumps(model)) * blocks + data.images.nbytes * 4
    made = Provenance.now()
    lines = [
        f"{date.today()}, {made.hardware}, PyTorch {made.pytorch}. {blocks} blocks of {IMAGES} images, LeNet under PGD-"
        f"{attack.steps}; the four tables are equal. {note}".strip(),
        "",
        "| overhead of a block | empty | with its images |",
        "|---|--:|--:|",
        *(f"| {name} | {1000 * nothing:.1f} ms | {1000 * images:.1f} ms |" for name, (nothing, images) in overheads),
        "",
        "| the job | seconds | against one worker |",
        "|---|--:|--:|",
        *(
            f"| {name} | {seconds:.1f} | {one / seconds:.2f} |"
            for name, seconds in (
                ("one Dask worker", one),
                ("two Dask workers", two),
                ("two, of which one is killed at half time", killed),
                ("`--workers 2`", in_pool),
            )
        ),
        "",
        f"Sent: {sent / 1e6:.1f} MB, where model and floats with each block would be {whole / 1e6:.1f} MB.",
    ]
    return "\n".join(lines) + "\n"


def _nothing(job: object, shared: object) -> int:
    return 0


def _overhead(executor: Executor | None, data: InMemory, count: int) -> tuple[float, float]:
    """Seconds per block of no work, without and with the images that go with it."""
    found = []
    for jobs in (range(count), (data.subset(torch.arange(IMAGES)) for _ in range(count))):
        start = time.perf_counter()
        for _ in each(_nothing, jobs, executor, shared=0):
            pass
        found.append((time.perf_counter() - start) / count)
    return found[0], found[1]


def _steps(model: nn.Module, data: InMemory, seconds: float) -> int:
    """Steps of PGD with which a block takes so many seconds."""
    some = data.subset(torch.arange(IMAGES))
    start = time.perf_counter()
    evaluate(model, some, [PGD(eps=0.1, steps=50)], batch_size=IMAGES, progress=False)
    return max(1, round(50 * seconds / (time.perf_counter() - start)))


def _kill(client: object) -> None:
    os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)  # pyright: ignore


def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.05)


if __name__ == "__main__":
    main()

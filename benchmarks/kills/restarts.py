"""Kill a process of a training on two nodes, both on this machine; torchrun's agents start it again.

    python -m benchmarks.kills.restarts --kills 5

The commands are those of docs/several-machines.md, with one process on each node and `steelman train`. Once they run
undisturbed. Then one process of the two is killed (SIGKILL) at a random moment of the training, again and again while
restarts are left; the run's folder has to hold the same to the last bit, but for times and dates. Needs no data;
about a minute for each kill on a quiet machine.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.kills.same import differences
from benchmarks.kills.started import ENVIRONMENT

EPOCHS, PER_RUN = 30, 2
WORDS = (
    *("-m", "steelman", "train", "pgd_digits_mlp", "--set", "network.hidden=[16]"),
    *("--set", "training.checkpoint_seconds=0.2", "--set", f"training.epochs={EPOCHS}"),
)


def start(folder: Path, restarts: int) -> list[subprocess.Popen[bytes]]:
    """Two agents, as on two machines."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = (
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *(f"--max-restarts={restarts}", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=kills"),
        "--local-addr=127.0.0.1",
    )
    nodes = []
    for node in range(2):
        with folder.with_name(f"{folder.name}-{node}.log").open("wb") as log:
            nodes.append(subprocess.Popen([*agent, *WORDS], cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log))
    return nodes


def workers(nodes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """The processes that the agents have started."""
    children = [Path(f"/proc/{node.pid}/task/{node.pid}/children") for node in nodes]
    return [int(pid) for path in children if path.exists() for pid in path.read_text().split()]


def epochs(folder: Path) -> int:
    log = folder / "runs" / "pgd_digits_mlp" / "log.jsonl"
    return len(log.read_text().splitlines()) - 1 if log.exists() else -1


def killed(folder: Path, count: int, chance: random.Random) -> tuple[int, float]:
    """Train with kills; how many there were, and the longest time from one to the next checkpoint."""
    nodes, done, slowest = start(folder, restarts=4 * count), 0, 0.0
    plan = sorted(chance.randrange(EPOCHS - 2) for _ in range(count))
    try:
        while any(node.poll() is None for node in nodes):
            alive = workers(nodes)
            if done < count and len(alive) == 2 and epochs(folder) >= plan[done]:
                before = epochs(folder)
                time.sleep(chance.uniform(0, 0.2))
                os.kill(alive[chance.randrange(2)], signal.SIGKILL)
                begun, done = time.monotonic(), done + 1
                while epochs(folder) <= before and any(node.poll() is None for node in nodes):
                    time.sleep(0.02)
                slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.02)
    finally:
        for node in nodes:
            node.terminate()
    return done, slowest


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.kills.restarts", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=4, help="in all (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    asked = parser.parse_args()
    chance, kills, wrong = random.Random(asked.seed), 0, list[str]()
    with tempfile.TemporaryDirectory(prefix="restarts-") as root:
        whole, begun = Path(root) / "whole", time.monotonic()
        codes = [node.wait() for node in start(whole, 0)]
        print(f"undisturbed: {time.monotonic() - begun:.0f} s", flush=True)
        if any(codes):
            wrong.append(f"undisturbed, the agents ended with {codes}")
        while kills < asked.kills and not wrong:
            folder, begun = Path(root) / f"run-{kills}", time.monotonic()
            done, slowest = killed(folder, min(PER_RUN, asked.kills - kills), chance)
            kills += done
            wrong += [f"{folder.name}: {each}" for each in differences(whole, folder)]
            if epochs(folder) != EPOCHS or not done:
                wrong.append(f"{folder.name}: {done} kills, {epochs(folder)} epochs")
            print(f"{done} kills, {time.monotonic() - begun:.0f} s, {slowest:.1f} s at most to go on", flush=True)
        for each in wrong:
            print(each)
    print(f"{kills} kills, {len(wrong)} differences")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

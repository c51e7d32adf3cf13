"""What an epoch of Deep Defense costs against a plain epoch, in time and in memory.

    python benchmarks/deep_defense.py --data-dir DATA [--markdown docs/results/deep-defense-cost.md]

LeNet on MNIST, batches of 100, from a network trained for one plain epoch. The ways to train take turns batch by batch,
so that the machine's moods fall on all of them; an epoch is 600 such batches. The memory is the process's growth at its
peak, each way in a process of its own. "Full Jacobian" is the formula read literally: all ten logits' gradients in the
graph, every image carried through all five steps. Ours chooses the class without a graph, and done images leave.
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import Batch, DeepDefense, Plain, Training, fit
from steelman.data import MNIST
from steelman.networks import LeNet, Preprocessed, SubtractMean
from steelman.networks.preprocess import peel
from steelman.training import SGD

BATCH = 100


def full_jacobian(net: nn.Module, batch: Batch) -> Tensor:
    defence = DeepDefense()
    network, x = peel(net, batch.x)
    total, going = torch.zeros_like(x), torch.ones(len(x))
    clean = network(x)
    own = clean.argmax(1)
    correct = own == batch.y
    for _ in range(defence.steps):
        point = (x + total).requires_grad_()
        logits = network(point)
        own = torch.where(correct, own, logits.argmax(1))
        rows = torch.stack([torch.autograd.grad(z.sum(), point, create_graph=True)[0] for z in logits.unbind(1)], 1)
        slopes = rows - rows[torch.arange(len(x)), own][:, None]
        norms = (slopes + defence.damping).flatten(2).norm(dim=2)
        gaps = logits - logits.gather(1, own[:, None])
        distance = (gaps.abs() / norms).detach().scatter(1, own[:, None], torch.inf)
        pick = torch.where(correct, distance.argmin(1), batch.y)
        length = (gaps.abs() / norms**2).gather(1, pick[:, None])[:, 0] * going
        total = total + length[:, None, None, None] * slopes[torch.arange(len(x)), pick]
        with torch.no_grad():
            after = network(x + (1 + defence.overshoot) * total).argmax(1)
        going = going * torch.where(correct, after == own, after != batch.y)
    rho = (1 + defence.overshoot) * total.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    exponent = torch.where(correct, -defence.c * rho, (defence.d * rho).clamp(max=20))
    return F.cross_entropy(clean, batch.y) + defence.weight * exponent.exp().mean()


Way = Callable[[nn.Module, Batch], Tensor]
WAYS: dict[str, Way] = {"plain": Plain(), "Deep Defense": DeepDefense(), "full Jacobian": full_jacobian}


def setting(data: Path | None) -> tuple[nn.Module, list[Batch]]:
    torch.manual_seed(0)
    train = MNIST().load("train", data)
    net = Preprocessed(SubtractMean(shape=train.shape).fit(train), LeNet())
    fit(net, train, Plain(), Training(epochs=1, batch_size=BATCH, optimiser=SGD(lr=0.01)), progress=False)
    return net.train(), list(train.batches(torch.arange(40 * BATCH).split(BATCH)))


def seconds(way: Way, net: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch) -> float:
    start = time.perf_counter()
    optimiser.zero_grad()
    way(net, batch).backward()
    optimiser.step()
    return time.perf_counter() - start


def high_water() -> float:
    """The most memory that the process has held, in MiB. Linux only; getrusage would count the parent's too."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def peak(name: str, net: nn.Module, batches: list[Batch], answer: "multiprocessing.Queue[float]") -> None:
    optimiser = torch.optim.SGD(net.parameters(), lr=5e-4)
    seconds(Plain(), net, optimiser, batches[0])
    before = high_water()
    for batch in batches:
        seconds(WAYS[name], net, optimiser, batch)
    answer.put(high_water() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--hardware", default=platform.machine())
    options = parser.parse_args()
    net, batches = setting(options.data_dir)
    optimiser = torch.optim.SGD(net.parameters(), lr=5e-4, momentum=0.9, weight_decay=5e-4)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for batch in batches:
        for name, way in WAYS.items():
            taken[name].append(seconds(way, net, optimiser, batch))
    plain = statistics.median(taken["plain"])
    lines = ["| way | time of a batch, plain = 1 | memory at the peak above plain's, MiB |", "|---|---|---|"]
    for name in WAYS:
        answer: multiprocessing.Queue[float] = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(target=peak, args=(name, net, batches[:5], answer))
        process.start()
        memory = answer.get()
        process.join()
        lines.append(f"| {name} | {statistics.median(taken[name]) / plain:.2f} | {memory:.0f} |")
    table = "\n".join(lines)
    print(table)
    if options.markdown:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        threads = torch.get_num_threads()
        hardware = f"{options.hardware}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"
        options.markdown.write_text(
            "# What Deep Defense costs\n\n"
            f"LeNet, MNIST, batches of {BATCH}, medians over {len(batches)} batches in one run. "
            f"`python benchmarks/deep_defense.py --data-dir DATA --markdown {options.markdown}`; {hardware}; "
            f"{date.today().isoformat()}.\n\n{table}\n"
        )


if __name__ == "__main__":
    main()

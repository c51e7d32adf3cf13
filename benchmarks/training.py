"""What training costs: a batch of `fit` beside a loop by hand, and YOPO-5-10 beside PGD-40 on the paper's network.

    OMP_NUM_THREADS=1 python -m benchmarks.training [--rounds 6]

Made images of 28 x 28, in batches of 100 (YOPO: 256). The sides take turns, so that the machine's moods fall on all of
them; processor time, and the median of the ratios of a turn. The loop by hand has the same forward and backward passes,
torch's own noise, and no checks. Some minutes, no data.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelman import PGD, TRADES, YOPO, AdversarialTraining, Batch, Plain, Training, fit
from steelman.data import InMemory
from steelman.defences import Game
from steelman.networks import MLP, LeNet, SmallCNN
from steelman.training import SGD, loop, play

SIZE, EPS, STEPS, STEP, START = 100, 0.1, 10, 0.025, 0.001
BATCHES = {MLP: 30, LeNet: 6, SmallCNN: 4}
Hand = Callable[[nn.Module, Tensor, Tensor], Tensor]


def plain(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def climb(net: nn.Module, x: Tensor, start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    low, high = (x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1)
    net.eval().requires_grad_(False)
    for _ in range(STEPS):
        start = start.clamp(low, high).requires_grad_()
        (slope,) = torch.autograd.grad(loss(net(start)), start)
        start = slope.sign_().mul_(STEP).add_(start.detach())
    net.train().requires_grad_(True)
    return start.clamp(low, high)


def adversarial(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    start = x + EPS * (2 * torch.rand_like(x) - 1)
    return plain(net, climb(net, x, start, lambda logits: F.cross_entropy(logits, y, reduction="sum")), y)


def trades(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        clean = net.eval()(x).softmax(1)
    start = x + START * torch.randn_like(x)
    x_adv = climb(net, x, start, lambda logits: F.kl_div(logits.log_softmax(1), clean, reduction="sum"))
    logits = net(x)
    divergence = F.kl_div(net(x_adv).log_softmax(1), logits.softmax(1), reduction="batchmean")
    return F.cross_entropy(logits, y) + 6 * divergence


WAYS: dict[str, tuple[Game, Hand]] = {
    "plain": (Plain(), plain),
    "PGD-10": (AdversarialTraining(PGD(EPS, STEPS, STEP)), adversarial),
    "TRADES": (TRADES(PGD(EPS, STEPS, STEP, normal_start=START)), trades),
}


def by_hand(net: nn.Module, optimiser: torch.optim.Optimizer, data: InMemory, way: Hand) -> None:
    net.train()
    for part in torch.randperm(len(data)).split(SIZE):
        x, y = data.images[part].float() / 255, data.labels[part]
        optimiser.zero_grad()
        way(net, x, y).backward()
        optimiser.step()


def beside_a_loop(rounds: int) -> Iterator[str]:
    loop.time = SimpleNamespace(perf_counter=time.process_time, monotonic=time.monotonic)  # pyright: ignore
    for network, batches in BATCHES.items():
        images = torch.randint(256, (SIZE * batches, 1, 28, 28), dtype=torch.uint8)
        data = InMemory("made", images, torch.randint(10, (len(images),)), tuple("0123456789"))
        for name, (defence, way) in WAYS.items():
            net, ratios, best = network(), [], float("inf")
            optimiser = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)
            for turn in range(1 + rounds):
                training = Training(epochs=1, batch_size=SIZE, optimiser=SGD(lr=1e-3), seed=turn)
                ours = fit(net, data, defence, training, progress=False).log[1]["seconds"]
                start = time.process_time()
                by_hand(net, optimiser, data, way)
                theirs = time.process_time() - start
                if turn:  # the first is not counted
                    ratios.append(ours / theirs)
                    best = min(best, theirs / batches)
            yield f"{network.__name__} | {name} | {1e3 * best:.1f} | {statistics.median(ratios):.3f}"


def yopo(rounds: int) -> Iterator[str]:
    torch.manual_seed(0)
    net, x, y = SmallCNN().train(), torch.rand(256, 1, 28, 28), torch.randint(10, (256,))
    nn.init.normal_(net.get_submodule("fc3").weight, std=0.1)  # else there is no slope
    batch, optimiser = Batch(x, y, torch.arange(256), torch.arange(256)), torch.optim.SGD(net.parameters(), 1e-5)
    slow = AdversarialTraining(PGD(0.3, 40, 0.01), clean_weight=0.5)
    taken: dict[str, list[float]] = {"YOPO-5-10": [], "PGD-40": []}
    for _ in range(rounds):
        for name, defence in zip(taken, (YOPO(5, 10, 0.3, 0.01, first_layer="relu1"), slow), strict=True):
            start = time.process_time()
            play(defence, net, batch, optimiser)
            taken[name].append(time.process_time() - start)
    times = statistics.median(b / a for a, b in zip(*taken.values(), strict=True))
    yield f"SmallCNN | YOPO-5-10 | {1e3 * min(taken['YOPO-5-10']):.0f} | PGD-40 takes {times:.2f} times as long"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    print("network | defence | ms a batch, by hand | fit beside it")
    for line in beside_a_loop(rounds):
        print(line, flush=True)
    for line in yopo(max(1, rounds // 2)):
        print(line, flush=True)


if __name__ == "__main__":
    main()

"""What convolutions with the channel last in memory gain, in attacks on a CPU.

`OMP_NUM_THREADS=1 python -m benchmarks.layout` prints for each network, batch and attack the processor time of a call
with `channels_last` off and on, and their ratio: the least of rounds in which the two take turns. Networks have random
weights, radii are so small that no image falls, and every call has the same passes. Two minutes, no data; `--frozen`
also times the forward pass of a frozen, optimised TorchScript copy, which `steelman` does not use.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from steelman.attacks import PGD, Attack, Square
from steelman.layout import channels_last
from steelman.networks import ConvNet, LeNet, ResNet20

ROUNDS = 4
NETWORKS = {
    "LeNet": (LeNet, (1, 28, 28), 20),
    "ConvNet": (ConvNet, (3, 32, 32), 8),
    "ResNet20": (ResNet20, (3, 32, 32), 6),
}


def least(calls: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of processor time, of calls that take turns; the first round is not counted."""
    found = dict.fromkeys(calls, float("inf"))
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:
                found[name] = min(found[name], time.process_time() - start)
    return found


def attacked(model: nn.Module, attack: Attack, x: Tensor, y: Tensor) -> dict[str, float]:
    seeds = torch.arange(len(x))

    def call(fast: bool) -> Callable[[], object]:
        return lambda: attack.run(model, x, y, generator=seeds, channels_last=fast)

    return least({"off": call(False), "on": call(True)})


@torch.no_grad()
def frozen(model: nn.Module, x: Tensor) -> dict[str, float]:
    """A forward pass as the model lies, with the channel last, and of a frozen copy of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        traced = torch.jit.trace(copy.deepcopy(model).requires_grad_(False), x, check_trace=False)
        optimised = torch.jit.optimize_for_inference(traced)

    def last() -> None:
        with channels_last(model, x):
            model(x)

    return least({"off": lambda: model(x), "on": last, "frozen": lambda: optimised(x)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--frozen", action="store_true")
    options = parser.parse_args()
    for name in options.only:
        kind, shape, queries = NETWORKS[name]
        torch.manual_seed(0)
        model = kind(shape=shape, classes=10).eval()
        for batch in options.batches:
            x = torch.rand(batch, *shape)
            y = model(x).argmax(1)
            attacks = (Square(eps=1e-4, queries=queries), PGD(eps=1e-4, steps=queries // 2))
            parts = {type(each).__name__: attacked(model, each, x, y) for each in attacks}
            if options.frozen:
                parts["forward"] = frozen(model, x)
            for what, found in parts.items():
                ratios = ", ".join(f"{key} {found['off'] / value:.2f}" for key, value in found.items() if key != "off")
                print(
                    f"{name:9} batch {batch:4} {what:8} {found['off']:7.3f} s off; times as fast: {ratios}", flush=True
                )


if __name__ == "__main__":
    main()

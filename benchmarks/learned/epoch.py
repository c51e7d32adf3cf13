"""Seconds per epoch of plain, FGM, PGD-10 and PGN training, in turns of a batch each, in one run on one core.

    make learned-cost ARGS='--hardware "one core of ..."'

PGN's networks have a quarter of the paper's widths, on images of CIFAR-10's shape; at the paper's widths the operations
of a batch are counted instead. FGM and PGD are measured twice: as everywhere, and with the classifier's loss
differentiated through the attack, as in the paper's code. Beside them L2L-DA and PGD-10 training of LeNet-5.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.learned.step import seconds, spread
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from steelman import FGSM, L2, L2LDA, PGD, PGN, AdversarialTraining, Batch, Plain
from steelman.attacks.core.mode import evaluation_mode
from steelman.defences import Game
from steelman.defences.objective import Objective
from steelman.files import write_text
from steelman.losses import cross_entropy
from steelman.networks import ConvPoolCNN, LeNet5
from steelman.training import play
from steelman.types import CLASSIFIER

OUT = Path(__file__).parents[2] / "docs" / "results" / "learned-epoch.json"
EPS = 0.5
PAPER = {"plain": 8.18, "FGM": 25.12, "PGD-10": 175.86, "PGN": 51.77}
"""Seconds per epoch of CIFAR-100 in the paper's table 2; FGM and PGD are not detached there."""


@dataclass(frozen=True)
class Through(Objective):
    """Training on FGM's or PGD's L2 images, which are no constants: the loss is differentiated through all steps."""

    eps: float
    steps: int
    step_size: float

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        x_adv = batch.x
        with evaluation_mode(model, frozen=False):
            for _ in range(self.steps):
                x_adv = x_adv if x_adv.requires_grad else x_adv.requires_grad_()
                loss = cross_entropy(model(x_adv), batch.y).sum()
                (slope,) = torch.autograd.grad(loss, x_adv, create_graph=True)
                delta = x_adv + self.step_size * slope / _length(slope) - batch.x
                x_adv = (batch.x + delta * (self.eps / _length(delta)).clamp(max=1)).clamp(0, 1)
        return cross_entropy(model(x_adv), batch.y).mean()


def _length(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True).add(1e-12).sqrt()


def pgn_games(width: int) -> dict[str, Game]:
    pgn = PGN(width=2 * width, hidden=16 * width)
    step_size = 5 * EPS / 30
    return {
        "plain": Plain(),
        "FGM": AdversarialTraining(FGSM(EPS, norm=L2)),
        "PGD-10": AdversarialTraining(PGD(EPS, steps=10, step_size=step_size, norm=L2)),
        "PGN": pgn,
        "PGN, detach_adv": replace(pgn, detach_adv=True),
        "FGM, not detached": Through(EPS, 1, EPS),
        "PGD-10, not detached": Through(EPS, 10, step_size),
    }


def l2lda_games() -> dict[str, Game]:
    return {
        "plain": Plain(),
        "PGD-10": AdversarialTraining(PGD(0.3, steps=10, step_size=0.075)),
        "L2L-DA, width 8": L2LDA(width=8),
    }


class Training:
    """A game on one batch, again and again; the weights stay, for the rates are 0."""

    def __init__(self, game: Game, classifier: nn.Module, batch: Batch) -> None:
        self.game, self.batch = game, batch
        nets = {CLASSIFIER: classifier}
        if isinstance(game, PGN | L2LDA):
            nets["generator"] = game.network(batch.x.shape[1:], 10)
        self.nets = nn.ModuleDict(nets).train()
        self.optimisers = {name: torch.optim.Adam(net.parameters(), 0.0) for name, net in nets.items()}

    def __call__(self) -> None:
        play(self.game, self.nets, self.batch, self.optimisers)


def trainings(
    games: dict[str, Game], classifier: nn.Module, shape: tuple[int, int, int], size: int
) -> dict[str, Training]:
    torch.manual_seed(0)
    batch = Batch(torch.rand(size, *shape), torch.arange(size) % 10, torch.arange(size), torch.arange(size))
    return {name: Training(game, classifier, batch) for name, game in games.items()}


def of_width(width: int, size: int) -> dict[str, Training]:
    """PGN's comparison, on as many images of CIFAR-10's shape."""
    return trainings(pgn_games(width), ConvPoolCNN(width=width), (3, 32, 32), size)


def measure(runs: dict[str, Training], images: int, turns: int) -> dict[str, Any]:
    """Processor seconds of an epoch of so many images, and against plain training in the same turn."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        run()
        print("warm:", name, flush=True)
    for _ in range(turns):
        for name, run in runs.items():
            found[name].append(seconds(run))
    batches = {name: images / len(run.batch) for name, run in runs.items()}
    return {
        name: {
            "epoch": median(times) * batches[name],
            "ratio": spread([mine / plain for mine, plain in zip(times, found["plain"], strict=True)]),
        }
        for name, times in found.items()
    }


def operations(make: Callable[[int], dict[str, Training]], batch: int) -> dict[str, float]:
    """Floating-point operations of a batch, from two small ones, both with all classes."""
    small, large = ({name: _count(run) for name, run in make(size).items()} for size in (10, 11))
    return {name: small[name] + (large[name] - small[name]) * (batch - 10) for name in small}


def _count(run: Training) -> int:
    with _Operations() as counter:
        run()
    return counter.total


class _Operations(TorchDispatchMode):
    """As torch's FlopCounterMode, which cannot look on where an attack asks for a gradient inside a module's pass."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=answer)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--width", type=int, default=16, help="of the ConvPool-CNN; the generator has twice that")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--hardware", default="hardware not told")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    told = {key: getattr(options, key) for key in ("width", "batch", "turns", "hardware")}
    found: dict[str, Any] = {"told": told | {"date": date.today().isoformat(), "torch": torch.__version__}}
    found |= {"paper": PAPER, "PGN": measure(of_width(options.width, options.batch), 50_000, options.turns)}
    lenet = trainings(l2lda_games(), LeNet5(), (1, 28, 28), 100)
    found["L2L-DA"] = measure(lenet, 60_000, max(options.turns // 2, 2))
    for width in (options.width, 64):
        found[f"operations, width {width}"] = operations(partial(of_width, width), 128)
    write_text(options.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

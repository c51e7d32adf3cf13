"""What L2L-DA costs, beside the passes that it is made of, in one run on one core.

    make learned-cost ARGS='--hardware "one core of ..."'

As an attack: a call of 10 steps, against 10 times one forward and gradient pass of the classifier and one pass of the
generator on inputs that lie ready. In training: an iteration, against the same passes with their backward passes and
the optimisers' steps. The two take turns, in processor time; a ratio is of one turn, and what is told is the median
with the quartiles. The classifier's activations that are alive when the generator descends are counted too.
"""

import argparse
import gc
import json
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steelman import L2LDA, Batch
from steelman.attacks.core.mode import evaluation_mode
from steelman.files import write_text
from steelman.networks import LeNet5, ResNet20
from steelman.training import play
from steelman.types import CLASSIFIER

STEPS, BATCH, CLIP = 10, 100, 1.0
CASES = {
    "LeNet5, MNIST, width 8": (LeNet5, (1, 28, 28), 8, 100),
    "LeNet5, MNIST, width 64": (LeNet5, (1, 28, 28), 64, 20),
    "ResNet20, CIFAR-10, width 8": (ResNet20, (3, 32, 32), 8, 20),
    "ResNet20, CIFAR-10, width 64": (ResNet20, (3, 32, 32), 64, 0),
}
"""Classifier, images, the generator's width, and how many images are trained on, where that is measured."""
OUT = Path(__file__).parents[2] / "docs" / "results" / "learned-step.json"


class Case:
    """A classifier, a generator and images, none of them trained: what costs time is their shape."""

    def __init__(self, kind: Callable[..., nn.Module], shape: tuple[int, int, int], width: int, batch: int) -> None:
        torch.manual_seed(0)
        self.attack = L2LDA(width=width, steps=STEPS, clip_norm=CLIP)
        self.classifier, self.generator = kind(shape=shape), self.attack.network(shape, 10)
        self.x, self.y = torch.rand(batch, *shape), torch.arange(batch) % 10
        self.seeds = torch.arange(batch)
        self.optimisers = {
            CLASSIFIER: torch.optim.SGD(self.classifier.parameters(), 0.0, momentum=0.9),
            "generator": torch.optim.SGD(self.generator.parameters(), 0.0, momentum=0.9),
        }

    # --- as an attack

    def attack_call(self) -> None:
        self.attack.with_generator(self.generator.eval())(self.classifier.eval(), self.x, self.y, generator=self.seeds)

    def attack_passes(self) -> None:
        seen, z = torch.cat([self.x] * 3, 1), torch.randn(len(self.x), 8)
        self.classifier.eval()
        self.generator.eval()
        with evaluation_mode(self.classifier):
            for _ in range(STEPS):
                self._gradient(self.x, self.y)
                with torch.no_grad():
                    self.generator(seen, z, self.y)

    # --- in training

    def iteration(self) -> None:
        nets = nn.ModuleDict({CLASSIFIER: self.classifier, "generator": self.generator}).train()
        play(self.attack, nets, Batch(self.x, self.y, seeds=self.seeds), self.optimisers)

    def parts(self) -> dict[str, float]:
        """Seconds of the passes of one iteration, in which nothing else is done."""
        x, y = self.x.repeat(2, 1, 1, 1), self.y.repeat(2)
        seen, z = torch.cat([x] * 3, 1), torch.randn(len(x), 8)
        self.generator.train()
        found: dict[str, float] = dict.fromkeys(
            ("classifier's gradients", "generator forward", "generator backward", "classifier's step"), 0.0
        )
        self.classifier.eval()
        with evaluation_mode(self.classifier):
            found["classifier's gradients"] = seconds(lambda: self._gradient(self.x, self.y)) + seconds(
                lambda: [self._gradient(x, y) for _ in range(STEPS)]
            )
        moves: list[Tensor] = []
        found["generator forward"] = seconds(lambda: moves.extend(self.generator(seen, z, y) for _ in range(STEPS)))

        def backward() -> None:
            torch.stack([move.mean() for move in moves]).mean().backward(inputs=list(self.generator.parameters()))
            self._move(self.generator, "generator")

        def step() -> None:
            self.classifier.train()
            cross_entropy(self.classifier(torch.cat([self.x, x])), torch.cat([self.y, y])).backward()
            self._move(self.classifier, CLASSIFIER)

        found["generator backward"] = seconds(backward)
        found["classifier's step"] = seconds(step)
        return found

    def alive(self) -> dict[str, int]:
        """Activations of the classifier that were made for the generator's descent, and that are alive at it; and as a
        check how many are where a graph is kept."""
        made: list[weakref.ref[Tensor]] = []

        def remember(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
            made.append(weakref.ref(answer))

        hooks = [module.register_forward_hook(remember) for module in self.classifier.modules()]
        nets = nn.ModuleDict({CLASSIFIER: self.classifier, "generator": self.generator})
        updates = self.attack.learn(nets, Batch(self.x, self.y, seeds=self.seeds))
        descent = next(updates)
        count, kept = len(made), _alive(made)
        made.clear()
        loss = self.classifier(self.x.requires_grad_()).mean()
        check = {"of one pass": len(made), "of these alive in its graph": _alive(made)}
        self.x.requires_grad_(False)
        for hook in hooks:
            hook.remove()
        del descent, updates, loss
        return {"made": count, "alive": kept, **check}

    def _gradient(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(cross_entropy(self.classifier(x), y, reduction="sum"), x)[0]

    def _move(self, net: nn.Module, name: str) -> None:
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        self.optimisers[name].step()
        self.optimisers[name].zero_grad(set_to_none=True)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _alive(made: list["weakref.ref[Tensor]"]) -> int:
    gc.collect()
    return sum(each() is not None for each in made)


def spread(values: Sequence[float]) -> dict[str, float]:
    low, _, high = quantiles(values, n=4)
    return {"median": median(values), "low": low, "high": high}


def as_attack(case: Case, budget: float) -> dict[str, Any]:
    """Turns of both sides until the time is up, at least three of each."""
    case.attack_call()
    turns: list[tuple[float, float]] = []
    start = time.process_time()
    while len(turns) < 3 or time.process_time() - start < budget:
        turns.append((seconds(case.attack_call), seconds(case.attack_passes)))
    return {
        "ratio": spread([mine / passes for mine, passes in turns]),
        "ms a step": spread([1000 * mine / STEPS for mine, _ in turns]),
        "ms of its passes": spread([1000 * passes / STEPS for _, passes in turns]),
        "turns": len(turns),
    }


def in_training(case: Case, budget: float) -> dict[str, Any]:
    case.iteration()
    turns: list[tuple[float, dict[str, float]]] = []
    start = time.process_time()
    while len(turns) < 2 or time.process_time() - start < budget:
        turns.append((seconds(case.iteration), case.parts()))
    return {
        "ratio": spread([mine / sum(parts.values()) for mine, parts in turns]),
        "s an iteration": median(mine for mine, _ in turns),
        "s of its parts": {name: median(parts[name] for _, parts in turns) for name in turns[0][1]},
        "images": len(case.x),
        "turns": len(turns),
        "classifier's activations": case.alive(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="of processor time, for each measurement")
    parser.add_argument("--only", default="", help="cases whose names hold this; the others stay as they are")
    parser.add_argument("--hardware", default="hardware not told")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    told = {"hardware": options.hardware, "date": date.today().isoformat(), "torch": torch.__version__}
    known: dict[str, Any] = json.loads(options.out.read_text())["cases"] if options.out.exists() else {}
    found = {"told": told, "cases": known}
    for name, (kind, shape, width, trained_on) in CASES.items():
        if options.only not in name:
            continue
        case = {"attack": as_attack(Case(kind, shape, width, BATCH), options.seconds)}
        if trained_on:
            case["training"] = in_training(Case(kind, shape, width, trained_on), options.seconds)
        print(name, json.dumps(case, indent=1), flush=True)
        found["cases"][name] = case
        write_text(options.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

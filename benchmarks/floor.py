"""What attacks cost beside a bare loop of the same passes, and what the first gradient attack of a process costs.

`OMP_NUM_THREADS=1 python -m benchmarks.floor` prints for each attack, network and batch: seconds of ours, of the bare
loop, and their ratio, the median over rounds in which the two take turns, in processor time of one core. A bare loop of
FGSM, PGD and MIM is written by hand with the least arithmetic (of L2, onto the ball and then clipped); for the others
it is the model's passes alone, forward and backward, in batches of the same sizes. Then, in fresh processes, processor
time and memory of a first PGD beside those of a first bare loop. Some minutes, no data; `--only PGD` is a part.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from steelman import DDN, FGSM, FMN, MIM, PGD, Attack, Square
from steelman.networks import ConvNet, LeNet
from steelman.norms import L2, Linf, Norm

STEPS = 10
QUERIES = 200
ROUNDS = 9
FRESH = 3

FIRST = """
import resource, time
import torch
from steelman import PGD
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
x, y = torch.rand(8, 1, 8, 8), torch.randint(10, (8,))

def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def bare():
    image = x.clone().requires_grad_()
    value = nn.functional.cross_entropy(network(image), y, reduction="sum")
    return torch.autograd.grad(value, image)

with torch.no_grad():
    network(x)
start, before = time.process_time(), memory()
{work}
print(time.process_time() - start, memory() - before)
"""


def light() -> nn.Module:
    """A small network for 224 x 224 images: strides first, so that its passes cost little beside the arithmetic."""
    front = nn.Conv2d(3, 16, 7, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=4), nn.ReLU()
    return nn.Sequential(*front, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


@dataclass(frozen=True)
class Ground:
    name: str
    model: nn.Module
    shape: tuple[int, int, int]
    batches: tuple[int, ...]
    radii: dict[Norm, float]

    def images(self, batch: int) -> tuple[Tensor, Tensor]:
        """As of data sets, in part black and white; and their classes, so that attacks have to work."""
        torch.manual_seed(batch)
        x = (1.5 * torch.rand(batch, *self.shape) - 0.25).clamp_(0, 1)
        with torch.no_grad():
            return x, self.model(x).argmax(1)


def grounds() -> list[Ground]:
    torch.manual_seed(0)
    radii = {Linf: 0.1, L2: 1.5}
    found = [
        Ground("LeNet", LeNet(), (1, 28, 28), (1, 10, 100, 250), radii),
        Ground("ConvNet", ConvNet(), (3, 32, 32), (100,), {Linf: 8 / 255, L2: 0.5}),
        Ground("light net, 224 x 224", light(), (3, 224, 224), (10, 100), {Linf: 8 / 255, L2: 3.0}),
    ]
    for ground in found:
        ground.model.eval().requires_grad_(False)
    return found


# --- bare loops


def slope(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(nn.functional.cross_entropy(model(x), y, reduction="sum"), x)[0]


def length(value: Tensor) -> Tensor:
    return torch.linalg.vector_norm(value.flatten(1), dim=1).clamp_(min=1e-12).reshape(-1, 1, 1, 1)


def climb(
    model: nn.Module, clean: Tensor, y: Tensor, norm: Norm, eps: float, steps: int, decay: float | None
) -> Tensor:
    """`steps` steps of eps / steps from the images; `decay` is that of the momentum."""
    step, x, velocity = eps / steps, clean, None
    low, high = (clean - eps).clamp_(0, 1), (clean + eps).clamp_(0, 1)
    for _ in range(steps):
        gradient = slope(model, x, y)
        if decay is not None:
            gradient = gradient.div_(gradient.abs().mean((1, 2, 3), keepdim=True))
            velocity = gradient if velocity is None else velocity.mul_(decay).add_(gradient)
            gradient = velocity
        if norm is Linf:
            x = torch.clamp(gradient.sign().mul_(step).add_(x), low, high)
        else:
            delta = (gradient * (step / length(gradient))).add_(x).sub_(clean)
            x = delta.mul_((eps / length(delta)).clamp_(max=1)).add_(clean).clamp_(0, 1)
    return x


class Recording(nn.Module):
    """Notes how many images each pass has, and whether it goes backwards too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.passes = model, list[tuple[int, int]]()

    def forward(self, x: Tensor) -> Tensor:
        place = len(self.passes)
        self.passes.append((len(x), 0))
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda _: self._back(place))
        return logits

    def _back(self, place: int) -> None:
        images, back = self.passes[place]
        self.passes[place] = images, back + 1


class Replay:
    """The passes of an attack alone, noted at the first call."""

    def __init__(self, model: nn.Module, attack: Attack, x: Tensor, y: Tensor) -> None:
        self.model, self.attack, self.x, self.y = model, attack, x, y
        self.passes: list[tuple[int, int]] = []

    def __call__(self) -> None:
        if not self.passes:
            recording = Recording(self.model)
            self.attack(recording.eval(), self.x, self.y, generator=torch.arange(len(self.x)))
            self.passes = recording.passes
        for images, back in self.passes:
            here = self.x[:images]
            if back == 0:
                with torch.no_grad():
                    self.model(here)
                continue
            here = here.detach().requires_grad_()
            value = self.model(here).logsumexp(1).sum()
            for rest in reversed(range(back)):
                torch.autograd.grad(value, here, retain_graph=rest > 0)


# --- rows


def rows(ground: Ground, batch: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """By attack: ours and the bare loop."""
    x, y = ground.images(batch)
    model, found = ground.model, dict[str, tuple[Callable[[], object], Callable[[], object]]]()
    for norm, eps in ground.radii.items():
        by_hand = partial(climb, model, x, y, norm, eps)
        step = eps / STEPS
        found[f"FGSM {norm}"] = partial(FGSM(eps, norm=norm), model, x, y), partial(by_hand, 1, None)
        pgd = PGD(eps, STEPS, step, norm, random_start=False)
        found[f"PGD {norm}"] = partial(pgd, model, x, y), partial(by_hand, STEPS, None)
        found[f"MIM {norm}"] = partial(MIM(eps, STEPS, step, norm), model, x, y), partial(by_hand, STEPS, 1.0)
    others: dict[str, Attack] = {f"Square {norm}": Square(eps, norm, QUERIES) for norm, eps in ground.radii.items()}
    others |= {"DDN L2": DDN(steps=4 * STEPS), "FMN L2": FMN(steps=4 * STEPS)}
    for name, attack in others.items() if x.shape[-1] < 100 else ():
        ours = partial(attack, model, x, y, generator=torch.arange(batch))
        found[name] = ours, Replay(model, attack, x, y)
    return found


def seconds(work: Callable[[], object], times: int = 1) -> float:
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def compared(ours: Callable[[], object], bare: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Least seconds of each, and the median ratio. Short ones are repeated to a twentieth of a second."""
    ours()
    bare()
    times = max(1, round(0.05 / max(seconds(bare), 1e-4)))
    own, floor = [], []
    for turn in range(rounds):
        for work, into in ((ours, own), (bare, floor)) if turn % 2 else ((bare, floor), (ours, own)):
            into.append(seconds(work, times))
    return min(own), min(floor), statistics.median(a / b for a, b in zip(own, floor, strict=True))


def first(work: str) -> tuple[float, float]:
    """Processor seconds and MB that a first call takes, each the median over fresh processes."""
    program = FIRST.format(work=work)
    found = [
        tuple(
            map(float, subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.split())
        )
        for _ in range(FRESH)
    ]
    spent, memory = (statistics.median(column) for column in zip(*found, strict=True))
    return spent, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each takes its turn")
    parser.add_argument("--only", default="", help="rows whose attack, network or batch contains this")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| attack | network | batch | ours, ms | bare, ms | ratio |\n|---|---|--:|--:|--:|--:|")
    for ground in grounds():
        for batch in ground.batches:
            for name, (ours, bare) in rows(ground, batch).items():
                row = f"| {name} | {ground.name} | {batch} |"
                if given.only in row:
                    own, floor, ratio = compared(ours, bare, given.rounds)
                    print(f"{row} {1e3 * own:.2f} | {1e3 * floor:.2f} | {ratio:.2f} |", flush=True)
    if given.only in "first":
        for name, work in (("a bare gradient", "bare()"), ("PGD", "PGD(steps=2)(network, x, y)")):
            spent, memory = first(work)
            print(f"first in a process, {name}: {spent:.3f} s, {memory:.1f} MB")


if __name__ == "__main__":
    main()

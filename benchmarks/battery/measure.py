"""One cell of the table: an attack of one library on one network, judged here."""

import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.battery.networks import Ground
from benchmarks.battery.peers import OURS, Adapters
from benchmarks.battery.rows import Job, Row
from torch import Tensor, nn

from steelman.losses import margin
from steelman.norms import Linf

Cell = dict[str, Any]

BATCH = 250
"""Images per call: every library gets the same batches."""

PATIENCE = 60
"""Seconds for two images, or for an affine model; a library that takes longer is left out of the row."""


class Counting(nn.Module):
    """Counts the images that pass forwards and backwards; the same for every library."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls, self.forwards, self.gradients = model, 0, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.forwards += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._count(len(gradient)))
        return logits

    def _count(self, images: int) -> None:
        self.gradients += images


def clock() -> float:
    """Of one thread its own seconds, which other work on the machine does not touch; of more, those of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = clock()
    result = work()
    return result, clock() - start


@contextmanager
def patience(seconds: int) -> Iterator[None]:
    """TimeoutError where it takes longer: one peer at one attack must not hold up the whole table."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pass_seconds(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Seconds per image of one bare forward pass without a graph, and of one gradient pass."""

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def both() -> None:
        image = x.detach().requires_grad_()
        torch.autograd.grad(model(image).logsumexp(1).sum(), image)

    turns = [(timed(forward)[1], timed(both)[1]) for _ in range(5)]
    alone, together = (statistics.median(column) / len(x) for column in zip(*turns, strict=True))
    return alone, max(together - alone, 0.0)


def images_later(images: int) -> int:
    """In rounds after the first, which only say how long it takes."""
    return min(images, max(images // 4, 10))


@dataclass
class Turn:
    """A row on a network, as the libraries take turns at it."""

    row: Row
    ground: Ground
    libraries: Adapters  # of this row: library to function
    images: dict[str, int]
    rounds: int

    def cells(self) -> dict[str, Cell]:
        """Every library once per round. Later rounds have fewer images and only say how long it takes."""
        cells: dict[str, Cell] = {}
        beside: dict[str, list[float]] = {}
        for turn in range(self.rounds):
            order = list(self.libraries)
            spent: dict[str, float] = {}
            for name in order[turn % len(order) :] + order[: turn % len(order)]:
                if turn and ("error" in cells[name] or cells[name]["seconds"][0] > 5 * _own(cells)):
                    continue  # too slow to wait for again
                cell, spent[name] = self._run(name, turn)
                if turn == 0:
                    cells[name] = {**cell, "seconds": [], "ratios": []}
                if "error" not in cells[name]:
                    cells[name]["seconds"].append(spent[name])
            if OURS in spent and "error" not in cells[OURS]:
                for name, seconds in spent.items():
                    beside.setdefault(name, []).append(seconds / spent[OURS])
                cells[OURS].setdefault("over floor", []).append(spent[OURS] / self._floor(cells[OURS], turn))
        for name, ratios in beside.items():
            cells[name]["ratios"] = ratios
        return cells

    def _floor(self, own: Cell, turn: int) -> float:
        """With batches as large as this round's, since small ones cost more per image."""
        images = own["images"] if turn == 0 else images_later(own["images"])
        forward, gradient = pass_seconds(self.ground.model, self.ground.x[: min(BATCH, images)])
        return own["forwards"] * forward + own["gradients"] * gradient

    def _run(self, name: str, turn: int) -> tuple[Cell, float]:
        images = self.images[name] if turn == 0 else images_later(self.images[name])
        x, y = self.ground.x[:images], self.ground.y[:images]
        counting = Counting(self.ground.model).eval()
        eps = self.row.reach * self.ground.radius(self.row.norm) if self.row.bounded else 0.0
        found: list[Tensor] = []

        def work() -> None:
            for start in range(0, images, BATCH):
                some = slice(start, start + BATCH)
                torch.manual_seed(turn)
                job = Job(counting, x[some].clone(), y[some].clone(), self.row.norm, eps, self.row.steps, turn)
                found.append(self.libraries[name](job))

        try:
            _, seconds = timed(work)
            x_adv = torch.cat([part.detach().to(x.dtype) for part in found])
            cell = judge(self.ground.model, x, y, x_adv, self.row, eps)
        except Exception as problem:  # a peer may fail in any way; the cell says how
            text = str(problem).strip().splitlines()
            cell, seconds = {"error": f"{type(problem).__name__}: {text[0] if text else ''}"[:200]}, 0.0
        passes = {"forwards": counting.forwards / images, "gradients": counting.gradients / images}
        passes["at once"] = counting.forwards / max(counting.calls, 1)
        print(f"{self.row.name:20} {self.ground.name:13} {name:13} {images:5} {seconds:8.2f} s", *
              ([cell["error"]] if "error" in cell else []), file=sys.stderr, flush=True)  # fmt: skip
        return {"images": images, "eps": eps, **passes, **cell}, seconds / images


def _own(cells: dict[str, Cell]) -> float:
    own = cells.get(OURS, {})
    return own["seconds"][0] if own.get("seconds") else float("inf")


def judge(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, row: Row, eps: float) -> Cell:
    """By one forward pass on what was returned, clipped. Sizes: 0 for an image that was wrong, None for a failure."""
    x_adv = torch.nan_to_num(x_adv).clamp(0, 1)
    with torch.no_grad():
        right = model(x).argmax(1) == y
        logits = model(x_adv)
    goal = logits.argmax(1) != y
    if row.targeted:
        goal = logits.argmax(1) == (y + 1) % 10
    size = row.norm.size(x_adv.double() - x.double()) * right
    outside = size > eps * (1 + 1e-5) + (1e-6 if row.norm is Linf else 1e-5)
    won = goal | ~right
    if row.bounded:
        won &= ~outside
    return {
        "size": [round(float(value), 6) if hit else None for value, hit in zip(size, won, strict=True)],
        "outside": float(outside.double().mean()) if row.bounded else 0.0,
        "margin": float(margin(logits, y).double().mean()),
    }

"""Epochs of trainings, beside a plain one and beside PGD-10 written by hand; two workers on one device."""

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.gpu.attacks import OURS, Row
from benchmarks.gpu.ground import Setting, ground, made, network
from benchmarks.gpu.loops import plain_pgd
from benchmarks.gpu.timing import clocked, peak_of, problem
from torch import Tensor, nn

from steelman import PGD, TRADES, YOPO, AdversarialTraining, DeepDefense, Training, evaluate, fit
from steelman.defences import Plain
from steelman.losses import KL
from steelman.optimisers import SGD
from steelman.workers import workers

BATCH = 128
EPOCHS = 4
"""The first is not counted."""
WHOLE = 50_000
"""Images of the epoch that the page projects."""


def epochs(setting: Setting, name: str) -> Iterator[Row]:
    """Seconds of an epoch by each defence, and the memory that it takes."""
    linf = {"eps": 0.3, "step_size": 0.075} if name == "LeNet" else {"eps": 8 / 255, "step_size": 2 / 255}
    steps = setting.of(2, 10)
    pgd = PGD(steps=steps, **linf)
    half = PGD(steps=steps, precision="bf16", **linf)
    trades = TRADES(PGD(steps=steps, normal_start=0.001, loss=KL(), **linf))
    m, n = (setting.of(2, 5), setting.of(2, 10 if name == "LeNet" else 3))
    many = 40 if name == "LeNet" else 20
    methods: dict[str, tuple[Any, bool, int]] = {
        "plain": (Plain(), False, many),
        f"PGD-{steps}": (AdversarialTraining(pgd), False, many),
        f"PGD-{steps}, bfloat16": (AdversarialTraining(half), True, many),
        "TRADES": (trades, False, many),
        f"YOPO-{m}-{n}": (YOPO(m, n, **linf), False, many),
        "Deep Defense": (DeepDefense(), False, many // 4),
    }
    base = None
    for method, (defence, autocast, batches) in methods.items():
        row: Row = {"table": "training", "network": name, "method": method, "side": OURS}
        try:
            row |= _fitted(setting, name, defence, autocast, setting.of(8, BATCH * batches))
            base = base or row["whole"]
            row["ratio"] = row["whole"] / base
        except Exception as error:  # such as memory: the other defences go on
            row["error"] = problem(error)
        yield row
    yield by_hand(setting, name, base or float("nan"), steps, setting.of(8, BATCH * many), **linf)


def _fitted(setting: Setting, name: str, defence: Any, autocast: bool, images: int) -> Row:
    model = network(name, setting).to(setting.device)
    data = made(name, setting, images).to(setting.device)
    rate = SGD(lr=1e-5)  # nothing is learnt, so that nothing diverges
    training = Training(epochs=setting.of(2, EPOCHS), batch_size=setting.of(4, BATCH), optimiser=rate)
    logs = []

    def work() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=autocast):
            logs.extend(fit(model, data, defence, training, progress=False).log)

    peak = peak_of(work, setting.device)
    seconds = statistics.median(line["seconds"] for line in logs[2:])
    return {"images": images, "seconds": seconds, "whole": seconds * WHOLE / images, "peak": peak}


def by_hand(setting: Setting, name: str, base: float, steps: int, images: int, eps: float, step_size: float) -> Row:
    """The floor of PGD-10: the same passes with nothing around them."""
    model = network(name, setting).to(setting.device)
    batch = next(made(name, setting, images).to(setting.device).in_order(images))
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
    parts = list(zip(batch.x.split(setting.of(4, BATCH)), batch.y.split(setting.of(4, BATCH)), strict=True))
    epoch = partial(_epoch, model, optimiser, parts, eps, step_size, steps)
    epoch()
    peak = peak_of(epoch, setting.device)
    seconds = statistics.median(clocked(epoch, setting.device) for _ in range(setting.of(1, EPOCHS - 1)))
    whole = seconds * WHOLE / images
    about = {"table": "training", "network": name, "method": f"PGD-{steps}", "side": "by hand", "images": images}
    return {**about, "seconds": seconds, "whole": whole, "ratio": whole / base, "peak": peak}


def _epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    parts: list[tuple[Tensor, Tensor]],
    eps: float,
    step: float,
    steps: int,
) -> None:
    for x, y in parts:
        model.eval().requires_grad_(False)
        x_adv = plain_pgd(model, x, y, eps, step, steps)
        model.train().requires_grad_(True)
        optimiser.zero_grad()
        F.cross_entropy(model(x_adv), y).backward()
        optimiser.step()


def two_workers(setting: Setting, name: str = "LeNet", pool: Executor | None = None) -> Iterator[Row]:
    """An evaluation in this process, and in two that share the device; their tables are compared.

    pool  in place of the two
    """
    here = ground(name, setting)
    data = made(name, setting, setting.of(8, 2000), seed=2).to(setting.device)
    attack = PGD(here.eps, steps=setting.of(2, 400), step_size=here.eps / 4)
    measure = partial(evaluate, here.model, data, [attack], batch_size=setting.of(4, 100), progress=False)
    alone, table = _timed(measure)
    with workers(2) if pool is None else pool as executor:
        few = data.subset(torch.arange(setting.of(4, 200)))
        first, _ = _timed(
            partial(
                evaluate, here.model, few, [attack], progress=False, executor=executor, batch_size=setting.of(2, 100)
            )
        )
        both, other = _timed(partial(measure, executor=executor))
    same = table.table.drop_columns(["seconds"]).equals(other.table.drop_columns(["seconds"]))
    shares = float((table["prediction"] == other["prediction"]).mean())
    row: Row = {"table": "workers", "network": name, "images": len(data), "alone": alone, "both": both, "start": first}
    yield row | {"equal": same, "predictions": shares}


def _timed(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found

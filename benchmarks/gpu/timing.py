"""Seconds and memory of calls that take turns, on a CPU or a GPU."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

Work: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class Measured:
    """What was measured of a call.

    seconds  the median over the rounds
    ratio    the median over the rounds of its seconds over those of the first call in the same round
    first    seconds of the very first call, in which kernels are loaded, compiled and captured
    peak     MiB that were allocated at most beyond what was there before; None on a CPU
    rounds   how many there were
    """

    seconds: float
    ratio: float
    first: float
    peak: float | None
    rounds: int


def clocked(work: Work, device: torch.device) -> float:
    """Seconds until the device has done all that a call asks of it: launches count, since they often decide."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_of(work: Work, device: torch.device) -> float | None:
    """MiB that a call allocates at most, beyond what is there before."""
    if device.type != "cuda":
        work()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    _wait(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def in_turns(
    works: Mapping[str, Work], device: torch.device, rounds: int, limit: float = float("inf")
) -> dict[str, Measured | str]:
    """Each call made twice, and then timed in turns, in alternating order; a call that fails has its error instead.

    limit  seconds after which no further round begins
    """
    begun, going = time.monotonic(), dict[str, tuple[Work, float, float | None]]()
    found: dict[str, Measured | str] = {}
    for name, work in works.items():
        try:
            first = clocked(work, device)
            going[name] = work, first, peak_of(work, device)
        except Exception as error:  # of a peer, a compiler, a capture: whatever it is, the others go on
            found[name] = problem(error)
    spent: dict[str, list[float]] = {name: [] for name in going}
    for turn in range(rounds):
        for name in going if turn % 2 else reversed(going):
            spent[name].append(clocked(going[name][0], device))
        if time.monotonic() - begun > limit:
            break
    base = spent.get(next(iter(works)), [])
    for name, (_, first, peak) in going.items():
        own = spent[name]
        ratios = [each / other for each, other in zip(own, base, strict=True)] if base else [float("nan")]
        found[name] = Measured(statistics.median(own), statistics.median(ratios), first, peak, len(own))
    return {name: found[name] for name in works}


def problem(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__

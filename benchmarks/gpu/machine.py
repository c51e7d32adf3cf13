"""What a launch costs on this machine: the unit in which small networks are paid for."""

from collections.abc import Iterator
from functools import partial

import torch
from benchmarks.gpu.attacks import OURS, Row
from benchmarks.gpu.ground import Ground, Setting, ground
from benchmarks.gpu.timing import Work, clocked, problem
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from steelman import PGD

MANY = 2000


def machine(setting: Setting) -> Iterator[Row]:
    """Microseconds of a launch, of the same from a graph, and of a wait for one number."""
    device, many = setting.device, setting.of(20, MANY)
    value = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(many):
            value.add_(1)

    def number() -> None:
        for _ in range(many):
            value.add_(1).item()

    def copy() -> None:
        for _ in range(many):
            torch.as_tensor(1.0, device=device)

    clocked(launch, device)
    row: Row = {"table": "machine"}
    row |= {name: 1e6 * clocked(work, device) / many for name, work in (("launch", launch), ("number", number))}
    row["copy"] = 1e6 * clocked(copy, device) / many
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch()
        graph.replay()
        row["from a graph"] = 1e6 * clocked(graph.replay, device) / many
    yield row


def launches(setting: Setting, name: str) -> Iterator[Row]:
    """Kernels of a step of PGD, and the share of its time in which the device works, from torch's profiler."""
    here = ground(name, setting)
    for images in (setting.of(2, 100), setting.of(4, 500)):
        x, y = here.images(images)
        row: Row = {"table": "launches", "network": name, "images": len(x), "form": OURS}
        try:
            steps = setting.of(2, 10)
            short, long = (_profiled(partial(_pgd(here, turns * steps), x, y), setting) for turns in (1, 2))
            row |= {"kernels": (long[0] - short[0]) / steps, "busy": long[1]}
        except Exception as error:
            row["error"] = problem(error)
        yield row


def _pgd(here: Ground, steps: int) -> Work:
    return partial(PGD(here.eps, steps=steps, random_start=False), here.model)


def _profiled(work: Work, setting: Setting) -> tuple[int, float | None]:
    """Kernels of a call (on a CPU: operators), and their share of its time without the profiler."""
    on_gpu = setting.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    seconds = min(clocked(work, setting.device) for _ in range(setting.of(1, 3)))
    with profile(activities=kinds) as seen:
        clocked(work, setting.device)
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [each for each in seen.events() or [] if each.device_type == wanted]
    spent = sum(each.time_range.elapsed_us() for each in events) / 1e6
    return len(events), spent / seconds if on_gpu else None  # operators of a CPU are inside of others

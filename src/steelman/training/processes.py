"""One process or several (torchrun): who am I, and averages over all.

Gradients are averaged explicitly, without a wrapper around the network: a wrapper misses the gradients of whoever calls
a part of it, or differentiates twice, and says nothing.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """`rank` of `world` processes; alone, every exchange is the identity."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean; a parameter without one in any process stays without."""
        if self.world == 1:
            return
        parameters = list(parameters)
        if not parameters:
            return
        device = parameters[0].device
        present = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
        dist.all_reduce(present)
        moved = [p for p, count in zip(parameters, present.tolist(), strict=True) if count]
        if not moved:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in moved])
        dist.all_reduce(flat)
        flat /= self.world
        for parameter, part in zip(moved, flat.split([p.numel() for p in moved]), strict=True):
            parameter.grad = part.reshape(parameter.shape).clone()

    def agree(self, module: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.world > 1:
            with torch.no_grad():
                for value in module.state_dict().values():
                    dist.broadcast(value, src=0)

    def gather(self, value: Tensor) -> list[Tensor]:
        """The tensor of every process, in order of rank; same shape everywhere."""
        if self.world == 1:
            return [value]
        values = [torch.zeros_like(value) for _ in range(self.world)]
        dist.all_gather(values, value)
        return values

    def any(self, flag: bool) -> bool:
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)], device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(value)
        return bool(value.item())


def here() -> Processes:
    """The processes as they are now: the group that has been started, or just this one."""
    if dist.is_available() and dist.is_initialized():
        return Processes(dist.get_rank(), dist.get_world_size())
    return Processes()


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes that torchrun started, or just this one. The group is left as found when it exists already."""
    if here().world > 1:
        yield here()
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
    try:
        yield here()
    finally:
        dist.destroy_process_group()

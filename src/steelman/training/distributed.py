"""One process or several (torchrun): which one this is, and averages over all.

Gradients are averaged explicitly, without a wrapper around the network: without any error, a wrapper misses the
gradients of code that calls a part of the network or differentiates twice.
"""

import atexit
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steelman.files import working_in

PATIENCE = timedelta(hours=2)
"""So long does a process wait for the others. torch's 10 minutes (NCCL) are too short while the first one validates."""


@dataclass(frozen=True)
class Processes:
    """`rank` of `world` processes; in a single process, every exchange is the identity."""

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

    def same_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers, as after a resume; in one exchange for each type of number."""
        if self.world == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in module.buffers():
            by_type.setdefault(buffer.dtype, []).append(buffer)
        for buffers in by_type.values():
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
            dist.broadcast(flat, src=0)
            for buffer, part in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_(part.reshape(buffer.shape))

    def merge(self, module: nn.Module, before: Mapping[str, Tensor]) -> None:
        """Bring together the buffers in which each process has written rows of its own since `before`."""
        if self.world == 1:
            return
        for name, buffer in module.named_buffers():
            written = buffer != before[name]
            writers, total = written.to(buffer.dtype), torch.where(written, buffer, 0)
            dist.all_reduce(writers)
            dist.all_reduce(total)
            buffer.copy_(torch.where(writers > 0, total / writers, buffer))

    def broadcast(self, value: Tensor, source: int) -> None:
        """Overwrite `value` in every process with that of the process `source`."""
        if self.world > 1:
            sent = value.to(_device())
            dist.broadcast(sent, src=source)
            if sent is not value:
                value.copy_(sent)

    def gather(self, value: Tensor) -> list[Tensor]:
        """The tensor of every process, in order of rank; same shape everywhere."""
        if self.world == 1:
            return [value]
        values = [torch.zeros_like(value) for _ in range(self.world)]
        dist.all_gather(values, value.contiguous())
        return values

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.world == 1:
            return list(flags)
        values = torch.tensor([float(flag) for flag in flags], device=_device())
        dist.all_reduce(values)
        return [value > 0 for value in values.tolist()]

    def read(self, path: Path) -> bytes | None:
        """The first process's file, for all; None where it has none.

        So the others need no access to its disk, and never see an older state of a shared one.

        Raises:
            ValueError: another process has the file, and the first has none.
        """
        there = path.is_file()
        first, anyone = self.any(self.first and there, there)
        if anyone and not first:
            raise ValueError(
                f"{path} is there on another machine, and not on that of the first process: put the runs' folder where "
                "all machines see it, or copy it to all of them"
            )
        if not anyone or self.world == 1:
            return path.read_bytes() if there else None
        content = torch.frombuffer(bytearray(path.read_bytes() if self.first else b"?"), dtype=torch.uint8)
        length = torch.tensor([len(content)], device=_device())
        dist.broadcast(length, src=0)
        content = (content if self.first else content.new_empty(int(length))).to(_device())
        dist.broadcast(content, src=0)
        return content.cpu().numpy().tobytes()

    @contextmanager
    def holding(self, folder: Path | None) -> Iterator[None]:
        """While the block runs, the first process holds the lock of a folder; the others begin once it does."""
        with working_in(folder) if folder is not None and self.first else nullcontext():
            self.any(False)
            yield

    def warn_of_differing_buffers(self, module: nn.Module) -> None:
        """Warn where processes have other buffers, since they then do not train as one process does."""
        names = [
            name
            for name, buffer in module.named_buffers()
            if not all(torch.equal(buffer, other) for other in self.gather(buffer))
        ]
        if names and self.first:
            warnings.warn(
                f"each process updates {', '.join(names[:3])}{' and others' if len(names) > 3 else ''} from its own "
                f"share of a batch (batch normalisation?), so {self.world} processes do not train as one does; those "
                "of the first process are kept. Use group normalisation, or on GPUs "
                "torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)",
                stacklevel=6,
            )


def processes() -> Processes:
    """The processes that torchrun started, or just this one. The first call joins them, until the program ends.

    A process cannot leave a group and join another: the second group would use the addresses of the first, and hang.
    """
    if not dist.is_available():
        return Processes()
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE, **_meeting())
        atexit.register(_leave)
    return Processes(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Processes()


def _meeting() -> dict[str, Any]:
    """Where the processes of this start meet, in the store of torchrun's agents; nothing where there are none.

    Since torch 2.5 that store stays when the agents start their processes anew, and has the addresses of the dead ones,
    to which the new ones would connect (pytorch/pytorch issue 135712). The agents do not count restarts alike, so no
    number tells one start from another: the first process draws a name for it, and the others say that they know it.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=PATIENCE)
    mine, until = uuid4().hex, time.monotonic() + PATIENCE.total_seconds()
    if rank == 0:
        store.set("steelman", mine)
        here = [f"steelman/{mine}/{other}" for other in range(1, world)]
        store.wait(here)
        store.set(f"steelman/{mine}", " ".join(each.decode() for each in store.multi_get(here)))
        return {"store": PrefixStore(mine, store), "rank": rank, "world_size": world}
    while time.monotonic() < until:
        start = store.get("steelman").decode()
        store.set(f"steelman/{start}/{rank}", mine)
        with suppress(dist.DistStoreError):
            store.wait([f"steelman/{start}"], timedelta(seconds=1))
            if mine in store.get(f"steelman/{start}").decode():
                return {"store": PrefixStore(start, store), "rank": rank, "world_size": world}
        time.sleep(0.05)  # it is the name of an earlier start
    raise TimeoutError(f"the first process has not joined within {PATIENCE}")


def _device() -> str:
    """Where tensors of our own are exchanged."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _leave() -> None:
    # A thread of gloo may still hold the last exchange's tensors. To let go of them it needs the interpreter, and it
    # aborts the process where that is being torn down (pytorch/pytorch pull 179291, issue 190489).
    time.sleep(0.2)
    dist.destroy_process_group()

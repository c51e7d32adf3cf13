"""Work on every image of a data set, done once: shared out over the processes, kept in parts, never done again."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from steelman import checkpoint
from steelman.data.dataset import Dataset
from steelman.files import decoding
from steelman.identity import digest, model_parts
from steelman.training.distributed import processes
from steelman.training.fingerprint import images_of, said
from steelman.types import Batch

BATCH = 250
PART = 20 * BATCH
"""A kill loses at most the part that each process is at."""


def in_parts(
    data: Dataset,
    make: Callable[[Batch], Tensor],
    shape: tuple[int, ...],
    told: Mapping[str, str],
    folder: Path | None = None,
    progress: bool = True,
) -> Tensor:
    """`make` of every image, in order, in float32 on the CPU: (len(data), *shape).

    Batches are the same however many processes there are, so the bits are. A part is a file in `folder`, written whole
    or not at all, with `told`, what decides it, beside it.

    Raises:
        ValueError: a part was made of something else; the message names what.
        KeyboardInterrupt: after an interrupt; says what is kept.
    """
    group = processes()
    whole = torch.empty(len(data), *shape)
    parts = torch.arange(len(data)).split(PART)
    with group.holding(folder), _bar(progress and group.first, len(data)) as advance:
        for start in range(0, len(parts), group.world):
            turn = range(start, min(start + group.world, len(parts)))
            if start + group.rank in turn:
                part = parts[start + group.rank]
                file = None if folder is None else folder / f"{part[0]}-{part[-1]}.safetensors"
                whole[part[0] : part[-1] + 1] = _part(data, make, part, told, file, advance)
            for owner, place in enumerate(turn):
                group.broadcast(whole[parts[place][0] : parts[place][-1] + 1], owner)
    return whole


def _part(
    data: Dataset,
    make: Callable[[Batch], Tensor],
    part: Tensor,
    told: Mapping[str, str],
    file: Path | None,
    advance: Callable[[int], None],
) -> Tensor:
    if file is not None and file.exists():
        state = checkpoint.load(file)
        with decoding(file, "a file of prepared images", "Delete it: it is made again"):
            found, values = dict(state["told"]), state["values"]
            if not isinstance(values, Tensor) or len(values) != len(part):
                raise ValueError(f"{len(part)} images should be in it")
        changed = [name for name, value in told.items() if found.get(name, value) != value]
        if changed:
            raise ValueError(
                f"{file.parent} holds data made with another {' and '.join(changed)}: use another folder, or delete "
                "this one"
            )
        advance(len(part))
        return values
    made = []
    try:
        for batch in data.batches(part.split(BATCH)):
            made.append(make(batch).detach().to("cpu", torch.float32))
            advance(len(batch))
    except KeyboardInterrupt as stop:
        kept = "it is not kept" if file is None else f"the same call goes on from image {part[0]}"
        raise KeyboardInterrupt(f"the preparation of {data.name} was interrupted; {kept}") from stop
    values = torch.cat(made)
    if file is not None:
        checkpoint.save(file, {"told": dict(told), "values": values})
    return values


def describe(preparation: object, data: Dataset, reference: nn.Module, seed: int) -> dict[str, str]:
    """What decides the outcome, under the name by which a user knows it."""
    return {
        "preparation": said(preparation),
        "reference": digest(model_parts(reference)),
        "set of images": images_of(data),
        "seed": str(seed),
    }


@contextmanager
def _bar(shown: bool, images: int) -> Iterator[Callable[[int], None]]:
    """Images done and the time left; silent where standard error is not a terminal."""
    if not (shown and sys.stderr.isatty()):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    look = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*look, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=images)
        yield lambda done: bar.advance(task, done)

"""Tasks for other processes: what all tasks of an evaluation share is sent once, and images as little as possible."""

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from steelman.data.dataset import Data, Dataset
from steelman.data.memory import InMemory
from steelman.data.sample import Sample
from steelman.data.stream import Streamed
from steelman.evaluation.task import Task
from steelman.identity import image_digests
from steelman.networks.building import device
from steelman.table.records import Provenance, Record
from steelman.table.table import Evaluation
from steelman.types import Batch

OWN = "own"
"""In place of a device: that of the process that does the work."""


@dataclass(frozen=True)
class Common:
    """What the tasks of an evaluation share.

    task    without images; its device may be `OWN`
    images  the pickled data set, where it is small since it names files, so that processes read these themselves
    """

    task: Task
    images: bytes = b""

    @staticmethod
    def of(task: Task, dataset: Data) -> "Common":
        images = _inside(dataset)
        if not isinstance(images, Streamed):
            return Common(task)
        try:
            raw = pickle.dumps(_alone(images.to("cpu")))
        except Exception:  # whatever it is: where items cannot be sent, images are
            return Common(task)
        return Common(task, raw if len(raw) < len(images) * math.prod(images.shape) else b"")

    @cached_property
    def dataset(self) -> Dataset:
        """What a process reads itself."""
        return pickle.loads(self.images)


@dataclass(frozen=True)
class Block:
    """What a task has of its own.

    places  of its images in the data set
    images  a batch or data set of them; None: the process reads them
    first   a digest of the first one, by which a process knows that it reads the same files
    known   the rows that are there
    """

    places: Tensor
    images: Dataset | Batch | None
    first: int
    known: Evaluation | None

    def batch(self, common: Common) -> Batch:
        """The images.

        Raises:
            Exception: whatever reading raises; ValueError where other images are read.
        """
        if isinstance(self.images, Batch):
            return self.images
        if self.images is not None:
            return next(self.images.in_order(len(self.images)))
        found = next(iter(common.dataset.batches([self.places])))
        if _first(found) != self.first:
            raise ValueError("it finds other images in the files")
        return found


@dataclass(frozen=True)
class Unread:
    """A block whose images a process could not read itself, and why."""

    places: Tensor
    why: str


def blocks_of(
    dataset: Data, parts: Sequence[Tensor], known: Callable[[Tensor], Evaluation | None], sent: Callable[[], bool]
) -> Iterator[Block]:
    """A block for each part of a data set.

    known  the rows of the images with these indices
    sent   whether images of files are sent, which may change on the way
    """
    images = _inside(dataset)
    if isinstance(images, tuple):
        x, y = (each.cpu() for each in images)
        yield from (Block(part, Batch(x[part], y[part], part), 0, known(part)) for part in parts)
    elif isinstance(images, InMemory):  # bytes, where floats would be four times as many
        for part in parts:
            some = images.subset(part).to("cpu")
            yield Block(part, some, 0, known(some.index))
    else:
        left, alone = list(parts), _alone(images)
        while left and not sent():
            part = left.pop(0)
            index = images.index[part.to(images.index.device)]
            yield Block(part, None, _first(next(iter(alone.batches([part[:1]])))), known(index))
        for part, batch in zip(left, images.batches(left), strict=True) if left else ():
            assert batch.index is not None
            index = batch.index.cpu()
            yield Block(part, replace(batch, x=batch.x.cpu(), y=batch.y.cpu(), index=index), 0, known(index))


def work_on(block: Block, common: Common) -> Evaluation | Unread:
    """The new rows of a block, with a record of where they are made."""
    task = common.task
    place = str(device()) if task.device == OWN else task.device
    try:
        batch = block.batch(common)
    except Exception as error:
        if block.images is not None:
            raise
        return Unread(block.places, f"{type(error).__name__}: {error}")
    here = Provenance.now(torch.device(place or batch.x.device))
    records = {name: _made(record, here) for name, record in task.records.items()}
    return replace(task, batch=batch, known=block.known, records=records, device=place).work()


def kind_of_device(dataset: Data) -> str:
    """The kind of device on which the images of a data set come."""
    images = _inside(dataset)
    found = images[0] if isinstance(images, tuple) else next(iter(_alone(images).batches([torch.arange(1)]))).x
    return found.device.type


def _made(record: Record, here: Provenance) -> Record:
    """The record, with where its rows are made; day and command are those of the evaluation."""
    if record.made.where == here.where:
        return record
    return record.changed(made=replace(here, date=record.made.date, command=record.made.command))


def _inside(dataset: Data) -> Data:
    return dataset.images if isinstance(dataset, Sample) else dataset


def _alone(images: Dataset) -> Dataset:
    """The data set, read by one process."""
    if isinstance(images, Streamed) and images.workers:
        images = copy(images)
        images.workers = 0
    return images


def _first(batch: Batch) -> int:
    return int(image_digests(batch.x[:1], batch.y[:1])[0])

"""Data sets that are read during training."""

import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from steelman.data.dataset import Dataset
from steelman.data.pictures import pixels
from steelman.data.sample import spread
from steelman.identity import digest
from steelman.types import Batch

READ = 1000
READ_BEFORE_TRIM = 2**22
"""Numbers in images, after which memory is given back: 28 of 224 x 224. It takes a few hundredths of the time."""


@runtime_checkable
class Items(Protocol):
    """A map-style `torch.utils.data.Dataset` of (image, label), or of mappings with both (`pair`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Any: ...


IMAGES = ("image", "img", "pixel_values", "images", "picture")
LABELS = ("label", "labels", "target", "fine_label", "cls", "class")
"""Names under which items that are mappings have the image and its label; the first that is there counts."""


def pair(item: Any) -> tuple[Any, Any]:
    """The image and the label of an item: a pair, or a mapping that has them under one of the usual names.

    Raises:
        ValueError: neither.
    """
    if isinstance(item, Mapping):
        found = [next((name for name in names if name in item), None) for names in (IMAGES, LABELS)]
        if None not in found:
            return item[found[0]], item[found[1]]
        raise ValueError(
            f"an item has {', '.join(map(repr, item))}: it needs an image ({', '.join(IMAGES)}) and a label "
            f"({', '.join(LABELS)}); or return pairs (image, label)"
        )
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ValueError(f"an item is a {type(item).__name__}: it must be (image, label), or a mapping with both")
    return item[0], item[1]


@final
class Streamed(Dataset):
    """A data set that does not fit into memory, read in batches by torch's DataLoader.

    items    a map-style torch data set of (image, label), or of mappings with both (`pair`): images are uint8 or
             floating point in [0, 1] of one shape, (channels, height, width), or pictures (`pixels`)
    classes  names
    labels   all of them, if they are known without reading the images
    workers  processes that read, default 0: this one

    A resumed training checks that the images are the same by the labels and by 1,000 images, evenly spread.

    Raises:
        ValueError: when a batch is read: an image of another shape or range, a label out of range.
    """

    def __init__(
        self,
        name: str,
        items: Items,
        shape: Sequence[int],
        classes: tuple[str, ...],
        *,
        labels: Tensor | None = None,
        workers: int = 0,
        index: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name, self.items, self.classes, self.workers = name, items, classes, workers
        self.shape = tuple(shape)
        self.device = torch.device(device)
        self.index = torch.arange(len(items)) if index is None else index
        self.labels = labels

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Batch]:
        plan: Any = (self.index[places.cpu()].tolist() for places in indices)
        loader: Iterable[list[Tensor]] = DataLoader(
            _CheckedItems(self.name, self.items, self.shape, len(self.classes)),  # pyright: ignore[reportArgumentType]
            batch_sampler=plan,
            collate_fn=_together,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )
        numbers = 0
        for values, labels, index in loader:
            numbers += values.numel()
            if numbers > READ_BEFORE_TRIM:
                numbers = 0
                give_back()
            values = values.to(self.device, non_blocking=True)
            x = values.to(torch.float32) / 255 if values.dtype == torch.uint8 else values.to(torch.float32)
            yield Batch(x, labels.to(self.device), index.to(self.device))

    def subset(self, index: Tensor) -> "Streamed":
        places = index.cpu()
        return self._like(self.index[places], None if self.labels is None else self.labels[places], self.device)

    def to(self, device: torch.device | str) -> "Streamed":
        return self._like(self.index, self.labels, device)

    def digest(self) -> str:
        """A hash of the labels, where they are known, and of some images (at most READ, evenly spread): all of them
        would take too long to read."""
        places = torch.arange(len(self))
        return digest((self.labels, self.index, self._hashes(spread(places, min(READ, len(places)))[1])))

    def _like(self, index: Tensor, labels: Tensor | None, device: torch.device | str) -> "Streamed":
        own = (self.name, self.items, self.shape, self.classes)
        return Streamed(*own, labels=labels, workers=self.workers, index=index, device=device)


def give_back() -> None:
    """Give the system the memory that was freed, where its allocator keeps it.

    glibc before 2.38 seldom uses aligned memory, in which tensors are, a second time (its bug 14581): evaluating 800
    images of 64 x 64 by FGSM, a process grew by 27 MB for every 64 of them, without a tensor that was alive.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # Windows, macOS, musl
        return None


def _together(items: list[tuple[Tensor, int, int]]) -> list[Tensor]:
    """A batch; where it has bytes and floating point, all in floating point."""
    images, labels, places = zip(*items, strict=True)
    if len({image.dtype for image in images}) > 1:
        images = [image.to(torch.float32) / (255 if image.dtype == torch.uint8 else 1) for image in images]
    batch = [torch.stack(list(images)), torch.tensor(labels), torch.tensor(places)]
    if get_worker_info() is not None:  # in a process that only reads
        give_back()
    return batch


class _CheckedItems:
    """Items as (pixels, label, place), each checked before it joins a batch."""

    def __init__(self, name: str, items: Items, shape: tuple[int, ...], classes: int) -> None:
        self.name, self.items, self.shape, self.classes = name, items, shape, classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> tuple[Tensor, int, int]:
        image, label = pair(self.items[place])
        values, label = pixels(image), int(label)
        if tuple(values.shape) != self.shape:
            raise ValueError(
                f"{self.name}: image {place} has shape {tuple(values.shape)}, and the first one has {self.shape}: "
                "resize them to one size, or let the data do it, such as by "
                '\'{ kind = "ImageFolder", path = "pictures", size = [224, 224] }\''
            )
        if values.dtype != torch.uint8 and not (values.is_floating_point() and values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"{self.name}: image {place} is neither uint8 nor floating point in [0, 1]")
        if not 0 <= label < self.classes:
            raise ValueError(f"{self.name}: image {place} has the label {label}; there are {self.classes} classes")
        return values, label, place

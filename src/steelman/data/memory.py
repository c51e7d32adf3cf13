"""Data sets that fit into memory."""

from collections.abc import Iterable, Iterator
from typing import final

import torch
from torch import Tensor

from steelman.data.dataset import Dataset
from steelman.identity import digest
from steelman.types import Batch, check_tensor


@final
class InMemory(Dataset):
    """A small data set as tensors on one device, cut into batches by indexing, without a DataLoader.

    images   (n, channels, height, width): uint8 with values 0 .. levels, returned as value / levels in float32; or
             floating point in [0, 1], returned as float32
    labels   (n,), int64, in 0 .. len(classes) - 1
    classes  names
    levels   the value of white in uint8 images, default 255
    index    places in the set that was loaded, default 0 .. n - 1

    Raises:
        ValueError: shapes, types or values are not as above.
    """

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        classes: tuple[str, ...],
        *,
        levels: int = 255,
        index: Tensor | None = None,
    ) -> None:
        check_tensor("images", images)
        check_tensor("labels", labels)
        if images.ndim != 4 or labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"{name}: images must have shape (n, channels, height, width) and labels int64 of shape (n,); "
                f"got {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
            )
        if not images.is_floating_point() and images.dtype != torch.uint8:
            raise ValueError(f"{name}: images must be uint8 or floating point; got {images.dtype}")
        if len(images):
            low, high = images.aminmax()
            most = 1 if images.is_floating_point() else levels
            if not (low >= 0 and high <= most):  # written so that NaN is refused
                raise ValueError(f"{name}: pixels must lie in 0 .. {most}; got {low.item()} .. {high.item()}")
            if labels.min() < 0 or labels.max() >= len(classes):
                raise ValueError(
                    f"{name}: labels must lie in 0 .. {len(classes) - 1}; got {labels.min()} .. {labels.max()}"
                )
        self.name, self.classes, self.levels = name, classes, levels
        self.images = images.to(torch.float32) if images.is_floating_point() else images
        self.labels: Tensor = labels  # pyright: ignore[reportIncompatibleVariableOverride]  # always known
        self.shape = tuple(images.shape[1:])
        self.index = torch.arange(len(images), device=images.device) if index is None else index

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Batch]:
        for places in indices:
            which = places.to(self.images.device)
            pixels = self.images.index_select(0, which)  # ten times as fast as to index
            x = pixels.to(torch.float32) / self.levels if pixels.dtype == torch.uint8 else pixels
            yield Batch(x, self.labels[which], self.index[which])

    def subset(self, index: Tensor) -> "InMemory":
        which = index.to(self.images.device)
        return self._like(self.images[which], self.labels[which], self.index[which])

    def to(self, device: torch.device | str) -> "InMemory":
        return self._like(self.images.to(device), self.labels.to(device), self.index.to(device))

    def digest(self) -> str:
        return digest((self.images, self.levels, self.labels, self.index))

    def _like(self, images: Tensor, labels: Tensor, index: Tensor) -> "InMemory":
        return InMemory(self.name, images, labels, self.classes, levels=self.levels, index=index)


MOST_CLASSES = 100_000
"""Classes without names: a higher label is more likely an error."""


def numbered(where: str, highest: int) -> tuple[str, ...]:
    """Names of the classes 0 .. `highest`; ValueError where there would be too many."""
    if highest >= MOST_CLASSES:
        raise ValueError(f"{where}: without names of classes, labels must be below {MOST_CLASSES}; got {highest}")
    return tuple(map(str, range(highest + 1)))


def as_dataset(data: Dataset | tuple[Tensor, Tensor]) -> Dataset:
    """A pair of images and labels as a data set; a data set as it is."""
    if isinstance(data, Dataset):
        return data
    images, labels = data
    check_tensor("images", images)
    check_tensor("labels", labels)
    return InMemory("tensors", images, labels, numbered("tensors", int(labels.max()) if len(labels) else -1))

"""Samples and splits of a data set, stratified by class: the same for every model, and on every machine."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from steelman.data.dataset import Dataset
from steelman.randomness import combine
from steelman.types import Batch

SEED = 0
"""One seed for all samples, so that all models are evaluated on the same images."""

BY_CLASS, AT_RANDOM = "by class", "at random"


@dataclass(frozen=True)
class Sampled:
    """How a sample was drawn.

    images  in the sample
    of      in the data set
    seed    of the order in which images are drawn
    rule    "by class": stratified; "at random", where labels are not known without reading the images
    """

    images: int
    of: int
    seed: int
    rule: str

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.images:,} of {self.of:,} images, a sample {self.rule} (seed {self.seed})"


def sample_order(labels: Tensor | None, index: Tensor, seed: int = SEED) -> Tensor:
    """An order of images of which every prefix is a stratified sample; without labels, a random order.

    labels  of the images, in the order of `index`
    index   each image's place in its data set

    Within a class the order is random. The image at place r of a class of n has the key (r + 1/2) / n, and images are
    ordered by their keys, so that each class has its share of the first N images, to within about one image.
    """
    index = index.cpu()
    keys = combine(torch.full_like(index, seed), index)
    order = keys.argsort(stable=True)
    if labels is None:
        return order
    grouped = order[labels.cpu()[order].argsort(stable=True)]  # by class, in random order within each
    counts = labels.cpu().unique(return_counts=True)[1]  # bincount counts as far as the highest label
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    share = (torch.arange(len(index)) - starts + 0.5) / counts.repeat_interleave(counts)
    # Among equal shares the random keys decide, not the number of the class.
    mixed = keys[grouped].argsort(stable=True)
    return grouped[mixed[share[mixed].argsort(stable=True)]]


def sampled(dataset: Dataset, count: int | None, seed: int = SEED) -> Dataset:
    """`count` images of a data set, in its order; the whole set for None, or where it has no more.

    seed  of the sample (default 0, for all models)

    A larger sample contains every smaller one. The sample depends on the labels and places of the images alone.

    Raises:
        ValueError: a count below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"a sample needs at least one image; got {count}")
    if count is None or count >= len(dataset):
        return dataset
    places = sample_order(dataset.labels, dataset.index, seed)[:count].sort().values
    rule = AT_RANDOM if dataset.labels is None else BY_CLASS
    return Sample(dataset.subset(places), Sampled(count, len(dataset), seed, rule))


@final
class Sample(Dataset):
    """A sample of a data set, with a record of how it was drawn."""

    def __init__(self, images: Dataset, drawn: Sampled) -> None:
        self.images, self.drawn = images, drawn
        self.name, self.classes, self.shape = images.name, images.classes, images.shape
        self.index, self.labels = images.index, images.labels

    def batches(self, indices: Iterable[Tensor]) -> Iterator[Batch]:
        return self.images.batches(indices)

    def subset(self, index: Tensor) -> Dataset:
        return self.images.subset(index)

    def to(self, device: torch.device | str) -> "Sample":
        return Sample(self.images.to(device), self.drawn)

    def digest(self) -> str:
        return self.images.digest()


def spread(order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` of `order` at even distances: (the others, the chosen), both ascending.

    If `order` is sorted by label, the choice is stratified, to within one.
    """
    place = torch.arange(len(order), device=order.device)
    taken = (place + 1) * count // len(order) > place * count // len(order)
    return order[~taken].sort().values, order[taken].sort().values


def split_off(dataset: Dataset, size: int | float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Hold out part of a data set, such as for validation: (rest, held out), each in its old order.

    size   a number of images, or a fraction of them if it is a float
    seed   chooses the images; the same seed chooses the same ones, on any machine and with any version of torch

    Stratified by label where the labels are known without reading the images.

    Raises:
        ValueError: one of the two parts would be empty.
    """
    count = round(size * len(dataset)) if isinstance(size, float) else size
    if not 0 < count < len(dataset):
        raise ValueError(
            f"cannot hold out {size} of the {len(dataset)} images of {dataset.name}: "
            "give a fraction between 0. and 1., or a smaller number of images"
        )
    keys = combine(torch.full_like(dataset.index, seed), dataset.index)
    order = keys.argsort(stable=True)
    if dataset.labels is not None:
        order = order[dataset.labels[order].argsort(stable=True)]
    rest, held_out = spread(order, count)
    return dataset.subset(rest), dataset.subset(held_out)

"""Splits of a data set that never change."""

import torch
from torch import Tensor

from steelman.data.dataset import Dataset
from steelman.randomness import combine


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

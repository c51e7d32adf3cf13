"""What tests of preparations share: few images, and all of a data set's batches in one."""

from typing import NamedTuple

import torch
from torch import Tensor

from steelman.data import Dataset, Digits, InMemory


def digits(count: int = 60) -> InMemory:
    """Images whose index is not their place."""
    train = Digits().load("train")
    return train.subset(torch.arange(7, len(train), 20)[:count])


class Whole(NamedTuple):
    x: Tensor
    y: Tensor
    indices: Tensor
    soft: Tensor
    """Of no columns where there is none."""


def everything(data: Dataset, size: int = 1000) -> Whole:
    rows = []
    for batch in data.in_order(size):
        assert batch.index is not None
        soft = torch.empty(len(batch), 0) if batch.soft is None else batch.soft
        rows.append((batch.x, batch.y, batch.index, soft))
    return Whole(*map(torch.cat, zip(*rows, strict=True)))

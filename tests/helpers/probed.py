"""What a probe measures of images."""

import torch
from torch import Tensor

from steelman.evaluation import Probe
from steelman.types import Images, Model


def of(probe: Probe, model: Model, x: Images, y: Tensor | None = None, x_adv: Images | None = None) -> Tensor:
    y = torch.zeros(len(x), dtype=torch.int64) if y is None else y
    return probe(model, x, y, x if x_adv is None else x_adv, torch.arange(len(x)) + 7)

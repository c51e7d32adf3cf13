"""Small differentiable networks that are fitted to a part of a model which has no gradient."""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS, RATE, BATCH, WIDTH = 200, 1e-2, 64, 24
BLUR = 0.3
LARGEST = 2**24
"""Weights of a fully connected layer at most."""


@final
class StandIn(nn.Module):
    """h, smooth, from tensors of one shape to tensors of another, (batch, ...) both.

    Between maps (channels, height, width): a convolution of 3x3 plus a network of two, on the input resized to the
    output's height and width. Otherwise a linear map plus a network of one hidden layer, on all numbers at once.

    given, made  shapes of input and output without the batch

    Raises:
        ValueError: too many numbers for a fully connected layer.
    """

    def __init__(self, given: Sequence[int], made: Sequence[int]) -> None:
        super().__init__()
        self.given, self.made = tuple(given), tuple(made)
        self.unit: Tensor
        self.size: Tensor
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("size", torch.ones(()))
        self.maps = len(self.given) == len(self.made) == 3
        if self.maps:
            first, last = self.given[0], self.made[0]
            self.linear: nn.Module = nn.Conv2d(first, last, 3, padding=1)
            parts = nn.Conv2d(first, WIDTH, 3, padding=1), nn.SiLU(), nn.Conv2d(WIDTH, WIDTH, 1), nn.SiLU()
            self.curved = nn.Sequential(*parts, nn.Conv2d(WIDTH, last, 1))
        else:
            first, last = torch.Size(self.given).numel(), torch.Size(self.made).numel()
            if first * last > LARGEST:
                raise ValueError(f"a stand-in from {self.given} to {self.made} would be too large")
            self.linear = nn.Linear(first, last)
            self.curved = nn.Sequential(nn.Linear(first, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, last))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.unit.dtype) / self.unit
        if not self.maps:
            x = x.flatten(1)
        elif x.shape[2:] != self.made[1:]:
            x = F.interpolate(x, self.made[1:], mode="bilinear", align_corners=False, antialias=True)
        return self.size * (self.linear(x) + self.curved(x)).reshape(len(x), *self.made)


def fitted(given: Tensor, made: Tensor) -> tuple[StandIn, float]:
    """A stand-in fitted by least squares to pairs of tensors, and the share that it explains (R^2) of held-out ones.

    Every fifth pair is held out. In the fit its input has noise, `BLUR` standard deviations of it, so that where the
    pairs come from steps the stand-in is a slope. Drawn from torch's global generator.

    Cost: 300 steps of Adam on 128 pairs.

    Raises:
        ValueError: as `StandIn`.
    """
    with torch.enable_grad():
        network = StandIn(given.shape[1:], made.shape[1:]).to(made)
        network.unit.copy_(given.std().clamp(min=1e-12))
        held = torch.arange(len(given), device=given.device) % 5 == 4
        size = made[~held].std().clamp(min=1e-12)
        optimiser = torch.optim.Adam(network.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
        rows = torch.where(~held)[0]
        for _ in range(STEPS):
            some = rows[torch.randint(len(rows), (BATCH,), device=rows.device)]
            inputs = given[some] + BLUR * network.unit * torch.randn_like(given[some])
            optimiser.zero_grad()
            F.mse_loss(network(inputs), made[some] / size).backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        network.requires_grad_(False)
        network.size.copy_(size)
        error = network(given[held]) - made[held]
        share = 1 - float(error.square().sum() / (made[held] - made[held].mean(0)).square().sum().clamp(min=1e-300))
    return network.eval(), share

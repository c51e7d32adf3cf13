"""A small network that classifies the 8 by 8 digits."""

import torch
import torch.nn.functional as F
from torch import nn

from steelman.data import Digits


def trained() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    network = nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(128, 10))
    (train,) = Digits().load("train").batches([torch.arange(600)])
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(25):
        optimiser.zero_grad()
        F.cross_entropy(network(train.x), train.y).backward()
        optimiser.step()
    return network.eval()

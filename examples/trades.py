"""TRADES (Zhang et al.) in a plain PyTorch loop: beta trades accuracy for robustness, measured by a stronger PGD."""

import torch

from steelman import PGD, TRADES, Batch, evaluate
from steelman.data import Digits
from steelman.networks import MLP

train, test = Digits().load("train"), Digits().load("test")
attacks = {"PGD": PGD(eps=0.15, steps=40, restarts=3, stop_early=True)}

for beta in (0.5, 3.0):
    torch.manual_seed(0)
    network = MLP(shape=train.shape, classes=10)
    defence = TRADES(PGD(eps=0.15, steps=7), beta=beta)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    for _ in range(15):
        for batch in train.batches(torch.randperm(len(train)).split(64)):
            optimiser.zero_grad()
            defence(network, Batch(batch.x, batch.y)).backward()
            optimiser.step()

    print(f"beta {beta:g}:\n{evaluate(network, test, attacks, progress=False)}\n")

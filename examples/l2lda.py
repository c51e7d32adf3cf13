"""L2L-DA (Jang et al.) in a plain loop: a generator learns to attack the network that learns to resist it."""

from dataclasses import replace

import torch
from torch import nn

from steelman import L2LDA, PGD, Batch, evaluate
from steelman.data import Digits
from steelman.networks import MLP
from steelman.training import play

torch.manual_seed(0)
train, test = Digits().load("train"), Digits().load("test")
game = L2LDA(eps=0.15, steps=4, width=8, normalise="rms")  # narrow, with few steps: quick to train
nets = nn.ModuleDict({"classifier": MLP(shape=train.shape), "generator": game.network(train.shape, classes=10)})
optimisers = {
    "classifier": torch.optim.SGD(nets["classifier"].parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4),
    "generator": torch.optim.SGD(nets["generator"].parameters(), lr=0.01, momentum=0.9),
}

for epoch in range(8):
    losses = {}
    for batch in train.batches(torch.randperm(len(train)).split(64)):
        losses = play(game, nets, Batch(batch.x, batch.y), optimisers)
    print(f"epoch {epoch + 1}: {losses}")

nets.eval()
attacks = {
    "its own generator": game.with_generator(nets["generator"]),
    "the best of its 5 draws": replace(game, generator=nets["generator"], samples=5),
    "PGD": PGD(eps=0.15, steps=40, restarts=3, stop_early=True),
}
print(evaluate(nets["classifier"], test, attacks, progress=False))

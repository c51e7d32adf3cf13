"""Gaussian augmentation with bounded ReLUs (Zantedeschi et al.) in a plain PyTorch loop, beside plain training."""

import torch

from steelman import FGSM, PGD, Batch, GaussianAugmentation, Plain, evaluate
from steelman.data import Digits
from steelman.networks import MLP, bounded_relus

torch.manual_seed(0)
train, test = Digits().load("train"), Digits().load("test")
attacks = {"FGSM": FGSM(eps=0.1), "PGD": PGD(eps=0.1, steps=40, restarts=3, stop_early=True)}
pairs = {
    "plain": (MLP(shape=train.shape), Plain()),
    "Gaussian, bounded": (bounded_relus(MLP(shape=train.shape)), GaussianAugmentation(sigma=0.3, copies=3)),
}

for name, (network, defence) in pairs.items():
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(20):
        for batch in train.batches(torch.randperm(len(train)).split(64)):
            optimiser.zero_grad()
            defence(network, Batch(batch.x, batch.y)).backward()
            optimiser.step()
    print(f"{name}:\n{evaluate(network, test, attacks, progress=False)}\n")

"""Adversarial training by PGD (Madry et al.) in a plain PyTorch loop, then measured with a stronger PGD."""

import torch

from steelman import FGSM, PGD, AdversarialTraining, Batch, evaluate
from steelman.data import Digits
from steelman.networks import MLP

torch.manual_seed(0)
train, test = Digits().load("train"), Digits().load("test")
network = MLP(shape=train.shape, classes=10)
defence = AdversarialTraining(PGD(eps=0.15, steps=10))
optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

for _ in range(20):
    for batch in train.batches(torch.randperm(len(train)).split(64)):
        optimiser.zero_grad()
        defence(network, Batch(batch.x, batch.y)).backward()
        optimiser.step()

attacks = {"FGSM": FGSM(eps=0.15), "PGD": PGD(eps=0.15, steps=40, restarts=3, stop_early=True)}
print(evaluate(network, test, attacks, progress=False))

"""MMA training (Ding et al.) in a plain PyTorch loop, beside plain training: every image's margin, then a table."""

import torch

from steelman import ANPGD, MMA, PGD, Linf, Plain, evaluate
from steelman.data import Digits
from steelman.measures import mean_margin
from steelman.networks import MLP

train, test = Digits().load("train"), Digits().load("test")
attacks = {
    "PGD .1": PGD(eps=0.1, steps=40, stop_early=True),
    "PGD .2": PGD(eps=0.2, steps=40, stop_early=True),
    "AN-PGD": ANPGD(radius=0.15, eps_max=0.4, steps=40),
}

for defence in (Plain(), MMA(d_max=0.3, eps_min=0.05)):
    torch.manual_seed(0)
    network = MLP(shape=train.shape, classes=10)
    defence = defence.setup(network, train)  # memory for a radius per image
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(15):
        for batch in train.batches(torch.randperm(len(train)).split(64)):
            optimiser.zero_grad()
            defence(network, batch).backward()
            optimiser.step()
    table = evaluate(network, test, attacks, progress=False)
    print(f"\n{defence}, mean margin {mean_margin(table, Linf, at_most=0.4, attacks=['AN-PGD'])}")
    print(table)
    for name, value in defence.report.items():
        print(f"  of training images: {name} {value:.3f}")

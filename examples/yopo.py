"""YOPO (Zhang et al.) in a plain PyTorch loop, beside PGD training: about as robust, in a quarter of the passes."""

import torch
from torch import nn

from steelman import PGD, YOPO, AdversarialTraining, Batch, evaluate
from steelman.data import Digits
from steelman.networks import MLP
from steelman.training import play

train, test = Digits().load("train"), Digits().load("test")
attacks = {"PGD": PGD(eps=0.15, steps=40, restarts=3, stop_early=True)}
passes = 0


def count(layer: nn.Module, inputs: object, output: object) -> None:
    global passes
    passes += 1


def learn(defence: YOPO | AdversarialTraining, rate: float) -> None:
    global passes
    torch.manual_seed(0)
    network, passes = MLP(shape=train.shape, classes=10), 0
    defence = defence.setup(network, train)  # finds YOPO's first layer, and refuses a network that has none
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    counter = network.get_submodule("fc3").register_forward_hook(count)
    for _ in range(12):
        for batch in train.batches(torch.randperm(len(train)).split(64)):
            play(defence, network, Batch(batch.x, batch.y), optimiser)
    counter.remove()
    print(f"{type(defence).__name__}: {passes} full passes\n{evaluate(network, test, attacks, progress=False)}\n")


learn(AdversarialTraining(PGD(eps=0.15, steps=10)), rate=0.05)
learn(YOPO(m=3, n=4, eps=0.15, step_size=0.04), rate=0.05 / 3)  # its three gradients are summed

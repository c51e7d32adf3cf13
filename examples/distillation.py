"""Defensive distillation (Papernot et al.) in a plain PyTorch loop: an attack by hand fails, ours do not."""

from copy import deepcopy

import torch
from torch.nn.functional import cross_entropy

from steelman import FGSM, PGD, Batch, Distillation, SoftLabels, evaluate
from steelman.data import Dataset, Digits
from steelman.networks import MLP

torch.manual_seed(0)
train, test = Digits().load("train"), Digits().load("test")
T = 100.0


def learn(network: MLP, data: Dataset, defence: Distillation, rate: float, epochs: int) -> MLP:
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(epochs):
        for batch in data.batches(torch.randperm(len(data)).split(64)):
            optimiser.zero_grad()
            defence(network, Batch(batch.x, batch.y, soft=batch.soft)).backward()
            optimiser.step()
    return network


start = learn(MLP(shape=train.shape, hidden=(64,)), train, Distillation(1.0), rate=0.002, epochs=1)
teacher = learn(deepcopy(start), train, Distillation(T), rate=0.03, epochs=20)
student = learn(deepcopy(start), SoftLabels(T)(train, teacher), Distillation(T), rate=0.03, epochs=20)
plain = learn(deepcopy(start), train, Distillation(1.0), rate=0.002, epochs=20)

for name, network in {"plain": plain, "distilled": student}.items():
    (batch,) = test.in_order(len(test))
    x = batch.x.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(network(x), batch.y), x)
    by_hand = (network((x + 0.1 * gradient.sign()).clamp(0, 1)).argmax(1) == batch.y).float().mean()
    print(f"{name}: {by_hand:.1%} right under FGSM by hand, whose gradient is lost in rounding where softmax is 1")
    print(evaluate(network, test, [FGSM(0.1), PGD(0.1, steps=40)], progress=False))

"""Deep Defense's sweep over lambda and c (figure 3 of its paper) on small digits: accuracy against rho_2."""

import copy

import torch

from steelman import Batch, DeepDefense, DeepFool, Plain
from steelman.data import Digits
from steelman.networks import MLP

torch.manual_seed(0)
train, test = Digits().load("train"), Digits().load("test")
(held,) = test.batches([torch.arange(len(test))])


def descend(network: MLP, objective: Plain | DeepDefense, epochs: int, rate: float) -> MLP:
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for batch in train.batches(torch.randperm(len(train)).split(64)):
            optimiser.zero_grad()
            objective(network, Batch(batch.x, batch.y)).backward()
            optimiser.step()
    return network


def show(name: str, network: MLP) -> None:
    found = DeepFool().run(network.eval(), held.x, held.y)
    rho = (found.l2 / held.x.flatten(1).norm(dim=1)).mean()
    accuracy = (network(held.x).argmax(1) == held.y).double().mean()
    print(f"{name:>10}  {accuracy:8.1%}  {rho:.3f}")


print("lambda   c  accuracy  rho_2")
reference = descend(MLP(shape=train.shape, hidden=(100,)), Plain(), epochs=30, rate=0.05)
show("reference", reference)
for weight in (5.0, 15.0, 25.0):
    for c in (2.0, 5.0, 10.0):
        defence = DeepDefense(weight=weight, c=c)
        show(f"{weight:5.0f}{c:5.0f}", descend(copy.deepcopy(reference).train(), defence, epochs=3, rate=0.005))

"""Deep Defense in a plain PyTorch loop: fine-tune a trained network, and see how far its boundaries have moved."""

import torch

from steelman import Batch, DeepDefense, DeepFool, Plain
from steelman.data import Digits
from steelman.networks import MLP

torch.manual_seed(0)
train, test = Digits().load("train"), Digits().load("test")
network = MLP(shape=train.shape, classes=10)


def descend(objective: Plain | DeepDefense, epochs: int, rate: float) -> None:
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    network.train()
    for _ in range(epochs):
        for batch in train.batches(torch.randperm(len(train)).split(64)):
            optimiser.zero_grad()
            objective(network, Batch(batch.x, batch.y)).backward()
            optimiser.step()


def show(name: str) -> None:
    network.eval()
    (batch,) = test.batches([torch.arange(len(test))])
    found = DeepFool().run(network, batch.x, batch.y)
    accuracy = (network(batch.x).argmax(1) == batch.y).float().mean()
    print(
        f"{name}: accuracy {accuracy:.3f}, mean |delta| / |x| {(found.l2 / batch.x.flatten(1).norm(dim=1)).mean():.3f}"
    )


descend(Plain(), epochs=30, rate=0.05)
show("plain")
descend(DeepDefense(weight=15.0, c=5.0), epochs=10, rate=0.01)
show("Deep Defense")

"""Parseval training in a plain PyTorch loop: after each step the weights are pulled towards orthonormal rows."""

import torch

from steelman import FGSM, PGD, Batch, Parseval, Plain, evaluate
from steelman.data import Digits
from steelman.networks import MLP

train, test = Digits().load("train"), Digits().load("test")
attacks = {"FGSM .1": FGSM(eps=0.1), "PGD .1": PGD(eps=0.1, steps=40, stop_early=True)}


def fitted(pull: Parseval | None) -> MLP:
    torch.manual_seed(0)
    network, chance = MLP(shape=train.shape, classes=10), torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(30):
        for batch in train.batches(torch.randperm(len(train)).split(64)):
            optimiser.zero_grad()
            Plain()(network, Batch(batch.x, batch.y)).backward()
            optimiser.step()
            if pull is not None:
                pull.pull(network, chance)
    return network.eval()


for name, pull in (("plain", None), ("Parseval", Parseval(beta=0.02))):
    network = fitted(pull)
    gains = [torch.linalg.svdvals(weight) for weight in network.state_dict().values() if weight.ndim == 2]
    print(f"{name}: singular values of", ", ".join(f"{each[-1]:.2f} to {each[0]:.2f}" for each in gains))
    print(evaluate(network, test, attacks, progress=False), end="\n\n")

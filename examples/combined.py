"""Deep Defense and FGS training, alone and combined in one `Sum`, in a plain PyTorch loop."""

import copy

import torch

from steelman import FGSM, AdversarialTraining, Batch, DeepDefense, DeepFool, Plain, Sum, evaluate
from steelman.data import Digits
from steelman.defences import Objective
from steelman.measures import rho_2
from steelman.networks import MLP

torch.manual_seed(0)
train, test = Digits().load("train"), Digits().load("test")
attacks = {"FGSM .1": FGSM(eps=0.1), "DeepFool": DeepFool(reference="prediction")}


def descend(network: MLP, objective: Objective, epochs: int, rate: float) -> MLP:
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for batch in train.batches(torch.randperm(len(train)).split(64)):
            optimiser.zero_grad()
            objective(network, Batch(batch.x, batch.y)).backward()
            optimiser.step()
    return network


reference = descend(MLP(shape=train.shape, hidden=(100,)), Plain(), epochs=30, rate=0.05)
deep, fgs = DeepDefense(weight=15.0, c=5.0), AdversarialTraining(FGSM(eps=0.1))
# Deep Defense has the clean cross-entropy, and FGS training here none: nothing counts twice.
for name, defence in (("Deep Defense", deep), ("FGS training", fgs), ("combined", Sum((deep, fgs)))):
    network = descend(copy.deepcopy(reference).train(), defence, epochs=5, rate=0.005).eval()
    found = evaluate(network, test, attacks, progress=False)
    print(f"{name}: {found}, rho_2 {rho_2(found).value:.3f}\n")

"""Training on clean images and PGD's, half of each, in a loop of Hugging Face's accelerate; its table is Steelman's."""

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from steelman import FGSM, PGD, AdversarialTraining, Batch, evaluate
from steelman.data import Digits
from steelman.networks import MLP

torch.manual_seed(0)
train, test = Digits().load("train"), Digits().load("test")
whole = next(train.in_order(len(train)))
defence = AdversarialTraining(PGD(eps=0.15, steps=10))

accelerator = Accelerator()
network = MLP(shape=train.shape, classes=10)
network, optimiser, loader = accelerator.prepare(
    network,
    torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4),
    DataLoader(TensorDataset(whole.x, whole.y), 64, shuffle=True),
)
for epoch in range(15):
    network.train()
    for x, y in loader:
        # Crafted on the network itself: what wraps it for several processes is for the pass whose gradients are shared.
        made = defence.craft(accelerator.unwrap_model(network), Batch(x, y))
        loss = cross_entropy(network(torch.cat([x, made.x])), y.repeat(2))
        optimiser.zero_grad()
        accelerator.backward(loss)
        optimiser.step()
    accelerator.save_state(f"runs/accelerate/{epoch}")

if accelerator.is_main_process:
    attacks = {"FGSM": FGSM(eps=0.15), "PGD": PGD(eps=0.15, steps=40, restarts=3, stop_early=True)}
    plain = accelerator.unwrap_model(network)
    print(evaluate(plain, test.to(accelerator.device), attacks, progress=False))

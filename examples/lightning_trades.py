"""TRADES (Zhang et al.) in a LightningModule: Lightning trains, logs and saves; loss and table are Steelman's."""

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from steelman import FGSM, PGD, TRADES, Batch, evaluate
from steelman.data import Digits, split_off
from steelman.networks import MLP


class Robust(lightning.LightningModule):
    def __init__(self, network, defence, attack):
        super().__init__()
        self.network, self.defence, self.attack = network, defence, attack

    def training_step(self, batch, place):
        return self.defence(self.network, Batch(*batch))  # crafts in evaluation mode, and changes no statistics

    def validation_step(self, batch, place):
        x, y = batch
        found = self.attack.run(self.network, x, y)
        self.log("robust", (found.prediction == y).float().mean(), batch_size=len(x))

    def configure_optimizers(self):
        return torch.optim.SGD(self.network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


lightning.seed_everything(0, verbose=False)
train, test = Digits().load("train"), Digits().load("test")
rest, held = (TensorDataset(each.x, each.y) for part in split_off(train, 0.2) for each in part.in_order(len(part)))

robust = Robust(MLP(shape=train.shape, classes=10), TRADES(PGD(eps=0.15, steps=10), beta=6.0), PGD(eps=0.15, steps=10))
best = ModelCheckpoint("runs/lightning", monitor="robust", mode="max")
# Attacks take gradients in validation too, so inference_mode has to be off.
trainer = lightning.Trainer(max_epochs=15, callbacks=[best], inference_mode=False, logger=False)
trainer.fit(robust, DataLoader(rest, 64, shuffle=True), DataLoader(held, 250))

robust.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
attacks = {"FGSM": FGSM(eps=0.15), "PGD": PGD(eps=0.15, steps=40, restarts=3, stop_early=True)}
print(evaluate(robust.network, test, attacks, progress=False))

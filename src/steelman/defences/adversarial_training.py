"""Training on what an attack makes of each batch."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from steelman.attacks.attack import Attack
from steelman.attacks.mode import evaluation_mode
from steelman.attacks.pgd import PGD
from steelman.defences.objective import Objective
from steelman.losses import cross_entropy
from steelman.networks.surgery import borrowed_buffers
from steelman.types import Batch


@dataclass(frozen=True)
class AdversarialTraining(Objective):
    """Adversarial training, with any attack, crafted anew on every batch.

    clean_weight * CE(x, y) + (1 - clean_weight) * CE(x_adv, y), where x_adv = attack(model, x, y) is a constant.

    attack        default PGD() (Madry: 8/255, 10 steps of 2/255, random start; MNIST: PGD(.3, steps=40, step_size=.01))
    clean_weight  default 0, adversarial images only (Madry); .5 with FGSM is Goodfellow's mixture, "Adv. Train II" in
                  Deep Defense
    crafting      mode of batch normalisation and dropout while crafting: "eval" (default) or "train" (Madry's code);
                  running statistics are put back afterwards, so that crafting never moves them

    Cost: the attack's, and 1 forward and 1 backward pass, 2 each when clean images take part.
    Reference: Aleksander Madry, Aleksandar Makelov, Ludwig Schmidt, Dimitris Tsipras and Adrian Vladu, "Towards deep
    learning models resistant to adversarial attacks", ICLR 2018, section 2; Ian Goodfellow, Jonathon Shlens and
    Christian Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, section 6.
    """

    attack: Attack = PGD()
    clean_weight: float = 0.0
    crafting: Literal["eval", "train"] = "eval"

    def __post_init__(self) -> None:
        if not 0 <= self.clean_weight <= 1:
            raise ValueError(f"clean_weight is a share from 0 to 1; got {self.clean_weight}")
        if self.crafting not in ("eval", "train"):
            raise ValueError(f'crafting is "eval" or "train"; got {self.crafting!r}')

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = torch.zeros((), device=batch.x.device)
        if self.clean_weight < 1:
            if self.crafting == "eval":
                with evaluation_mode(model):
                    x_adv = self.attack(model, batch.x, batch.y, generator=batch.seeds)
            else:
                with borrowed_buffers(model.modules()):
                    # A function, not a module: its mode is none of the attack's business.
                    x_adv = self.attack(lambda x: model(x), batch.x, batch.y, generator=batch.seeds)
            loss = loss + (1 - self.clean_weight) * cross_entropy(model(x_adv), batch.y).mean()
        if self.clean_weight > 0:
            loss = loss + self.clean_weight * cross_entropy(model(batch.x), batch.y).mean()
        return loss

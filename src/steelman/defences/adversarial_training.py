"""Training on what an attack makes of each batch."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from steelman.attacks.bounded.pgd import PGD
from steelman.attacks.core import Attack
from steelman.defences.adversarial import Adversarial, Crafting, check_attack, crafted
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.ranges import Fraction
from steelman.schedules import Constant, Schedule
from steelman.types import Batch


@dataclass(frozen=True)
class AdversarialTraining(Adversarial):
    """Adversarial training, with any attack, crafted anew on every batch.

    clean_weight * CE(x, y) + (1 - clean_weight) * CE(x_adv, y), where x_adv = attack(model, x, y) is a constant.

    attack        default PGD() (Madry: 8/255, 10 steps of 2/255, random start; MNIST: PGD(.3, steps=40, step_size=.01))
    clean_weight  default 0, adversarial images only (Madry); .5 with FGSM is Goodfellow's mixture, "Adv. Train II" in
                  Deep Defense
    crafting      mode of batch normalisation and dropout while crafting: "eval" (default) or "train" (Madry's code)
    schedule      factor on the attack's eps, and on its step_size where that is given; default Constant(). Linear() is
                  PGDLS, a baseline of MMA training: eps grows in a straight line from 0

    Fast adversarial training (RS-FGSM) is one step from a random start, PGD(eps, steps=1, step_size=1.25 * eps) with
    crafting="train". It may overfit catastrophically: within an epoch robust accuracy under PGD falls to 0 while that
    under one step rises, so monitor it with PGD, and stop. A minimal-norm attack, such as DeepFool, trains on images
    that just cross the boundary.
    Paper and code differ: Madry's paper has 7 steps for CIFAR-10, the code 10. Wong's code crafts in half precision.

    Cost: the attack's, and 1 forward and 1 backward pass, 2 each when clean images take part.
    Reference: Aleksander Madry, Aleksandar Makelov, Ludwig Schmidt, Dimitris Tsipras and Adrian Vladu, "Towards deep
    learning models resistant to adversarial attacks", ICLR 2018, section 2; Ian Goodfellow, Jonathon Shlens and
    Christian Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, section 6; Eric Wong, Leslie Rice
    and J. Zico Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020, section 4; Gavin
    Weiguang Ding, Yash Sharma, Kry Yik Chau Lui and Ruitong Huang, "MMA training: direct input space margin
    maximization through adversarial training", ICLR 2020, section 4 (PGDLS).

    Raises:
        ValueError: a schedule for an attack without an eps of its own; an attack with one answer for all images.
    """

    attack: Attack = PGD()
    clean_weight: Fraction = 0.0
    crafting: Crafting = "eval"
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        check_attack(self.attack)
        if self.schedule != Constant() and not any(item.name == "eps" for item in fields(self.attack)):
            raise ValueError(
                f"{self.schedule} changes the attack's eps, and {self.attack} has none of its own; use a bounded one, "
                "such as PGD, or Constant()"
            )

    def craft(self, model: nn.Module, batch: Batch) -> Batch:
        if self.clean_weight == 1:
            return batch
        attack = self.attack if self.schedule == Constant() else _scaled(self.attack, self.schedule(batch.progress))
        return replace(batch, x=crafted(attack, model, batch, self.crafting))

    def loss(self, model: nn.Module, batch: Batch, made: Batch) -> Tensor:
        loss = torch.zeros((), device=batch.x.device)
        if self.clean_weight < 1:
            loss = loss + (1 - self.clean_weight) * cross_entropy(logits_of(model, made.x), batch.y).mean()
        if self.clean_weight > 0:
            loss = loss + self.clean_weight * cross_entropy(logits_of(model, batch.x), batch.y).mean()
        return loss


def _scaled(attack: Attack, factor: float) -> Attack:
    """The attack with its radius, and its step size where one is given, times a factor."""
    lengths = {name: getattr(attack, name, None) for name in ("eps", "step_size")}
    return replace(attack, **{name: factor * length for name, length in lengths.items() if length is not None})

"""Adversarial training in which the labels are perturbed too."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from steelman.attacks.bounded.pgd import PGD
from steelman.attacks.core import Attack, evaluation_mode
from steelman.data.dataset import Dataset
from steelman.defences.adversarial import Adversarial, check_attack, crafted
from steelman.defences.objective import refuse_one_class
from steelman.forward import logits_of
from steelman.losses import cross_entropy, other_logits
from steelman.ranges import FractionBelow1, Positive
from steelman.types import Batch, Labels, Logits


@dataclass(frozen=True)
class Bilateral(Adversarial):
    """Bilateral adversarial training: one step towards the most confusing class, and labels moved to the other classes.

    CE(x', y'), both constants. x' is an attack on x, whose target is argmax_{k != c} p_k(x) where c is the label. y'
    has 1 - e for c and distributes e: with v_k = -log p_k(x), y'_k = e s_k for k != c, where
    s_k = (v_k - min_{j != c} v_j + gamma) / sum_{j != c} (v_j - min_{i != c} v_i + gamma),
    so the least likely class gets most. Where `eps_y` is not given, e = 1 / (1 + beta max_k s_k) image by image, which
    makes y'_c = beta max_{k != c} y'_k and lies in (1 / (1 + beta), 1 / (1 + beta / (K - 1))] for K classes.

    attack  default PGD(8/255, steps=1, step_size=8/255), the paper's one step of full length from a random start
    target  "most confusing" (default; "R-MC" in the paper) or None, any wrong class ("R-FGSM"; Madry with more steps)
    labels  "adversarial" (default, "LA"), "smooth" ("LS", s_k = 1 / (K - 1)) or "hard" (y' = y)
    eps_y   e, one number for all images; default None, by beta
    beta    default 9 (code, CIFAR-10; ImageNet 100); at K = 10, 81, 9 and 1 give e = .1, .5 and .9 of "smooth"
    gamma   default .01 (paper)

    R-MC-LA is the default; Madry-LA is PGD(8/255, steps=7, step_size=2/255) with target=None. p(x) is the clean
    image's, in evaluation mode, as is crafting (code). The paper's rows marked "+" are not defined in it. With two
    classes "adversarial" and "smooth" are the same, and so are the targets.

    Soft labels make cross-entropy a poor attack, so evaluate with the margin as well: under PGD at eps .15, an MLP on
    Digits trained by R-FGSM had a robust accuracy of 58 % with cross-entropy and 60 % with the margin, but one trained
    by R-MC-LA 60 and 53 %.
    Paper and code differ from this: they do not clip the random start to the box, ours is. The code adds 1e-8 to p.

    Cost: the attack's (1 forward and 1 gradient pass), 1 forward and 1 backward pass, and 1 forward pass for p(x),
    where target or labels need it.
    Reference: Jianyu Wang and Haichao Zhang, "Bilateral adversarial training: towards fast training of more robust
    models against adversarial attacks", ICCV 2019, section 4.

    Raises:
        ValueError: fewer than two classes; an attack without a radius, or with one answer for all images.
    """

    attack: Attack = PGD(steps=1, step_size=8 / 255)
    target: Literal["most confusing"] | None = "most confusing"
    labels: Literal["adversarial", "smooth", "hard"] = "adversarial"
    eps_y: FractionBelow1 | None = None
    beta: Positive = 9.0
    gamma: Positive = 0.01

    def __post_init__(self) -> None:
        check_attack(self.attack, bounded=True)

    def setup(self, model: nn.Module, data: Dataset) -> "Bilateral":
        refuse_one_class("Bilateral", len(data.classes))
        return self

    def craft(self, model: nn.Module, batch: Batch) -> Batch:
        target = soft = None
        if self.target is not None or self.labels == "adversarial":
            with evaluation_mode(model), torch.no_grad():
                logits = logits_of(model, batch.x)
            refuse_one_class("Bilateral", logits.shape[1])
            wrong = other_logits(logits, batch.y)
            target = wrong.argmax(1) if self.target else None
            if self.labels == "adversarial":
                # Differences of -log p are differences of logits.
                soft = self._labels(wrong.amax(1, keepdim=True) - logits + self.gamma, batch.y)
        return replace(batch, x=crafted(self.attack, model, batch, target=target), soft=soft)

    def loss(self, model: nn.Module, batch: Batch, made: Batch) -> Tensor:
        logits = logits_of(model, made.x)
        if self.labels == "smooth":
            return cross_entropy(logits, self._labels(torch.ones_like(logits), batch.y)).mean()
        return cross_entropy(logits, batch.y if made.soft is None else made.soft).mean()

    def _labels(self, weights: Logits, y: Labels) -> Logits:
        """y', where the share of each wrong class is in proportion to its weight."""
        own = y[:, None]
        weights = weights.scatter(1, own, 0.0)
        share = weights / weights.sum(1, keepdim=True)
        soft = share * (1 / (1 + self.beta * share.amax(1, keepdim=True)) if self.eps_y is None else self.eps_y)
        return soft.scatter(1, own, 1 - soft.sum(1, keepdim=True))

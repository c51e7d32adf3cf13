"""Adversarial training that weighs images by how wrong the network is without an attack."""

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from steelman.attacks.bounded.pgd import PGD
from steelman.attacks.core import Attack
from steelman.defences.adversarial import Adversarial, Crafting, check_attack, crafted
from steelman.forward import logits_of
from steelman.losses import kl_divergence, other_logits
from steelman.ranges import Factor
from steelman.types import Batch, Labels, Logits, PerImage


@dataclass(frozen=True)
class MART(Adversarial):
    """MART: misclassification aware adversarial training, with the largest weight on images that are wrong when clean.

    BCE(p(x'), y) + weight KL(p(x) || p(x')) (1 - p_y(x)), where BCE(p, y) = -log p_y - log(1 - max_{k != y} p_k), and
    x' = attack(model, x, y) is a constant. The gradient flows through all else, the factor 1 - p_y(x) too.

    attack    default the code's PGD(eps=.031, step_size=.007, normal_start=.001), 10 steps
    weight    lambda, default 5 (code: ResNet-18 on CIFAR-10; WideResNet 6)
    crafting  mode of batch normalisation and dropout while crafting: "eval" (default, as the code) or "train"

    Paper and code: the code guards its logarithms, log(1.0001 - p_k + 1e-12) and log(p_k + 1e-12), and adds 1e-7 to the
    factor. Here log(1 - p_k) is log sum_{j != k} exp Z_j - log sum_j exp Z_j, exact however sure the network is of a
    wrong class, and no guard is needed; the code's loss and gradient stop at log(1e-4) there.

    Cost: the attack's, and 2 forward and 2 backward passes.
    Reference: Yisen Wang, Difan Zou, Jinfeng Yi, James Bailey, Xingjun Ma and Quanquan Gu, "Improving adversarial
    robustness requires revisiting misclassified examples", ICLR 2020, section 3.

    Raises:
        ValueError: an attack without a radius, or with one answer for all images.
    """

    attack: Attack = PGD(eps=0.031, steps=10, step_size=0.007, normal_start=0.001)
    weight: Factor = 5.0
    crafting: Crafting = "eval"

    def __post_init__(self) -> None:
        check_attack(self.attack, bounded=True)

    def craft(self, model: nn.Module, batch: Batch) -> Batch:
        return replace(batch, x=crafted(self.attack, model, batch, self.crafting))

    def loss(self, model: nn.Module, batch: Batch, made: Batch) -> Tensor:
        clean, attacked = logits_of(model, batch.x), logits_of(model, made.x)
        wrong = 1 - clean.softmax(1).gather(1, batch.y[:, None])[:, 0]
        kept = kl_divergence(clean, attacked) * wrong
        return (boosted_cross_entropy(attacked, batch.y) + self.weight * kept).mean()


def boosted_cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """-log p_y - log(1 - max_{k != y} p_k)."""
    rival = other_logits(logits, labels).argmax(1)
    but_rival = other_logits(logits, rival).logsumexp(1) - logits.logsumexp(1)
    return F.cross_entropy(logits, labels, reduction="none") - but_rival

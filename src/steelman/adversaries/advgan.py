"""AdvGAN: a generator that perturbs an image in one pass, and a critic of how real the result looks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from steelman.adversaries.adversary import GENERATOR, Learning, OnePass, answer, with_gradient
from steelman.adversaries.generators.advgan import AdvGANCritic, AdvGANGenerator
from steelman.attacks.core import Oracle, evaluation_mode
from steelman.data.dataset import Dataset
from steelman.defences.game import Descend, Player, Step
from steelman.losses import Goal, Margin
from steelman.networks.building import described
from steelman.norms import L2, per_image
from steelman.optimisers import Adam, Optimiser
from steelman.ranges import Count, Factor, Fraction
from steelman.schedules import Schedule, Steps
from steelman.types import CLASSIFIER, Batch, Images, Radius, Share

CRITIC = "critic"


@dataclass(frozen=True)
class AdvGAN(OnePass):
    """AdvGAN: a generator G, and a critic D that learns to distinguish its images from real ones.

    x' = clamp(x + clamp(G(x), -eps, eps), 0, 1). In every batch D first descends the mean over images of

        (D(x) - 1)^2 + D(x')^2

    and then G, against the D that has just moved, with Z the logits of x' and y the labels,

        adv_weight * max(0, Z_y - max_{k != y} Z_k) + gan_weight * (D(x') - 1)^2
            + norm_weight * max(0, |G(x)|_2 - norm_bound)

    eps           radius in Linf, default .3 (MNIST)
    adv_weight    of the hinge, default 10
    gan_weight    of the critic's term, default 1
    norm_weight   of the size of G's answer before it is clamped, default 1
    norm_bound    c, up to which that size costs nothing, in L2, default 0
    width         of G and D, default 8
    clean_weight  as a defence, of clean images, default .5
    optimiser     of G and of D, default Adam(lr=1e-3)
    schedule      of both, default Steps(at=(.5, .8)), for its epochs 50 and 80

    The untargeted form. Networks, weights, least squares for D, the clamp and the rates are those of the common PyTorch
    re-implementation (mathcbc/advGAN_pytorch on GitHub), but that D has no batch normalisation (ours). The hinge is of
    logits, where that code has probabilities, and a mean over the batch, where it has the sum, so that G does not
    depend on the batch size (both ours). The classifier is in evaluation mode for G; G is in train mode while training,
    and its batch normalisation is over the whole batch, also in several processes.

    As a defence (ours) the classifier then descends clean_weight * CE(x, y) + (1 - clean_weight) * CE(x', y), with x'
    made by G as it was. The critic exists in training only: also where training starts from a `generator`, it is new.

    Cost per image: as an attack, 1 forward pass on the model, to check it, and 1 of G; in training 1 forward and
    gradient pass of the classifier, 1 forward and backward pass of G and 3 of D, and as a defence 2 forward and
    backward passes of the classifier more.
    Reference: Chaowei Xiao, Bo Li, Jun-Yan Zhu, Warren He, Mingyan Liu and Dawn Song, "Generating adversarial examples
    with adversarial networks", IJCAI 2018, section 3.

    Raises:
        ValueError: as an attack, a target, or no generator.
    """

    eps: Radius = Share(0.3)
    adv_weight: Factor = 10.0
    gan_weight: Factor = 1.0
    norm_weight: Factor = 1.0
    norm_bound: Factor = 0.0
    width: Count = 8
    clean_weight: Fraction = 0.5
    optimiser: Optimiser = field(default=Adam(lr=1e-3), kw_only=True)
    schedule: Schedule = field(default=Steps(at=(0.5, 0.8)), kw_only=True)

    def network(self, shape: Sequence[int], classes: int) -> AdvGANGenerator:
        return AdvGANGenerator(shape, self.width)

    def players(self, data: Dataset) -> dict[str, Player]:
        made = {"kind": f"{AdvGANCritic.__module__}:{AdvGANCritic.__name__}", "width": self.width}
        critic = described(AdvGANCritic(data.shape, self.width), made, data.shape, len(data.classes))
        return {**super().players(data), CRITIC: Player(critic, self.optimiser, self.schedule)}

    def learn(self, nets: nn.ModuleDict, batch: Batch) -> Learning:
        classifier, generator, critic = nets[CLASSIFIER], nets[GENERATOR], nets[CRITIC]
        raw = answer(generator, batch.x)
        x_adv = self.perturbed(batch.x, raw)
        real, made = answer(critic, torch.cat([batch.x, x_adv.detach()])).chunk(2)
        yield Descend(((real - 1).square() + made.square()).mean(), critic.parameters())
        yield Step(CRITIC)
        with evaluation_mode(classifier):
            goal = Goal(batch.y)
            margin = partial(Margin(confidence=0.0), goal=goal)
            _, value, slope = Oracle(classifier, goal).gradient(x_adv.detach(), margin)
        hinge = -with_gradient(value, x_adv, slope)
        unreal = (answer(critic, x_adv) - 1).square().mean(1)
        size = (L2.size(raw) - self.norm_bound).clamp(min=0)
        loss = self.adv_weight * hinge + self.gan_weight * unreal + self.norm_weight * size
        yield Descend(loss.mean(), generator.parameters())
        yield Step(GENERATOR)
        return Batch(x_adv.detach(), batch.y)

    def perturbed(self, x: Images, raw: Tensor) -> Images:
        eps = per_image(self.eps, x)
        return self.in_box(x + raw.clamp(-eps, eps))

"""AdvGAN: a generator that perturbs an image in one pass, and a critic that must not notice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.adversaries.adversary import GENERATOR, Adversary, Learning, answer, check_radius, defend, standing_for
from steelman.adversaries.generators.advgan import AdvGANCritic, AdvGANGenerator
from steelman.attacks.core.attack import Access
from steelman.attacks.core.mode import evaluation_mode
from steelman.attacks.core.oracle import Oracle
from steelman.data.dataset import Dataset
from steelman.defences.game import Average, Descend, Player, Step
from steelman.losses import Goal, Margin
from steelman.networks.building import described
from steelman.norms import L2, Linf, Norm, per_image
from steelman.optimisers import Adam, Optimiser
from steelman.randomness import Draws
from steelman.schedules import Schedule, Steps
from steelman.types import CLASSIFIER, Batch, Images, Labels, Radius, Share

CRITIC = "critic"


@dataclass(frozen=True)
class AdvGAN(Adversary):
    """AdvGAN: a generator G, whose perturbed images a critic D cannot tell from real ones.

    x' = clamp(x + clamp(G(x), -eps, eps), 0, 1). In every batch D first descends the mean over images of

        (D(x) - 1)^2 + D(x')^2

    and then G, against the D that has just moved, with Z the logits of x' and y the labels,

        adv_weight * max(0, Z_y - max_{k != y} Z_k) + gan_weight * (D(x') - 1)^2
            + norm_weight * max(0, |G(x)|_2 - norm_bound)

    eps           radius in Linf, default .3 (MNIST)
    adv_weight    of the hinge, default 10
    gan_weight    of what the critic thinks, default 1
    norm_weight   of the size of G's answer as it is before it is clamped, default 1
    norm_bound    c, up to which that size is free, in L2, default 0
    width         of G and D, default 8
    clean_weight  as a defence, of clean images, default .5
    optimiser     of G and of D, default Adam(lr=1e-3)
    schedule      of both, default Steps(at=(.5, .8)), for its epochs 50 and 80

    The untargeted form. Networks, weights, least squares for D, the clamp and the rates are those of the common PyTorch
    re-implementation (mathcbc/advGAN_pytorch on GitHub), but that D has no batch normalisation (ours). The hinge is of
    logits, where that code has probabilities, and a mean over the batch, where it has the sum, so that G does not
    depend on the batch size (both ours). The classifier is in evaluation mode for G; G is in train mode while training,
    and its residual blocks' batch normalisation sees the whole batch, also over several processes.

    As a defence (ours) the classifier then descends clean_weight * CE(x, y) + (1 - clean_weight) * CE(x', y), with x'
    made by G as it was. The critic is there in training only: where `generator` is one to train from, it begins afresh.

    Cost per image: as an attack, 1 forward pass on the model, to check it, and 1 of G; in training 1 forward and
    gradient pass of the classifier, 1 forward and backward pass of G and 3 of D, and as a defence 2 forward and
    backward passes of the classifier more.
    Reference: Chaowei Xiao, Bo Li, Jun-Yan Zhu, Warren He, Mingyan Liu and Dawn Song, "Generating adversarial examples
    with adversarial networks", IJCAI 2018, section 3.

    Raises:
        ValueError: a radius, weight or bound below 0, a width below 1; as an attack, a target, or no generator.
    """

    access: ClassVar[Access] = "decisions"
    norm: ClassVar[Norm] = Linf

    eps: Radius = Share(0.3)
    adv_weight: float = 10.0
    gan_weight: float = 1.0
    norm_weight: float = 1.0
    norm_bound: float = 0.0
    width: int = 8
    clean_weight: float = 0.5
    optimiser: Optimiser = field(default=Adam(lr=1e-3), kw_only=True)
    schedule: Schedule = field(default=Steps(at=(0.5, 0.8)), kw_only=True)

    def __post_init__(self) -> None:
        check_radius(self.eps)
        for name in ("adv_weight", "gan_weight", "norm_weight", "norm_bound"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is a number from 0 up; got {getattr(self, name)}")
        if not 0 <= self.clean_weight <= 1:
            raise ValueError(f"clean_weight is a share, 0 to 1; got {self.clean_weight}")
        if self.width < 1:
            raise ValueError(f"width is a number of channels, at least 1; got {self.width}")

    def network(self, shape: Sequence[int], classes: int) -> AdvGANGenerator:
        return AdvGANGenerator(shape, self.width)

    def players(self, data: Dataset) -> dict[str, Player]:
        made = {"kind": f"{AdvGANCritic.__module__}:{AdvGANCritic.__name__}", "width": self.width}
        critic = described(AdvGANCritic(data.shape, self.width), made, data.shape, len(data.classes))
        return {**super().players(data), CRITIC: Player(critic, self.optimiser, self.schedule)}

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Average | Step]:
        made = yield from self.learn(nets, batch)
        yield from defend(nets[CLASSIFIER], batch, made, self.clean_weight, None)

    def learn(self, nets: nn.ModuleDict, batch: Batch) -> Learning:
        classifier, generator, critic = nets[CLASSIFIER], nets[GENERATOR], nets[CRITIC]
        raw = answer(generator, batch.x)
        x_adv = self._added(batch.x, raw)
        real, made = answer(critic, torch.cat([batch.x, x_adv.detach()])).chunk(2)
        yield Descend(((real - 1).square() + made.square()).mean(), critic.parameters())
        yield Step(CRITIC)
        with evaluation_mode(classifier):
            goal = Goal(batch.y)
            _, won, slope = Oracle(classifier, goal).gradient(
                x_adv.detach(), partial(Margin(confidence=0.0), goal=goal)
            )
        hinge = -standing_for(won, x_adv, slope)
        noticed = (answer(critic, x_adv) - 1).square().mean(1)
        size = (L2.size(raw) - self.norm_bound).clamp(min=0)
        loss = self.adv_weight * hinge + self.gan_weight * noticed + self.norm_weight * size
        yield Descend(loss.mean(), generator.parameters())
        yield Step(GENERATOR)
        return Batch(x_adv.detach(), batch.y)

    def perturb(self, generator: nn.Module, oracle: Oracle, x: Images, y: Labels, draws: Draws) -> Images:
        oracle.decisions(x)  # a model that cannot be right is refused
        return Linf.contain(x, self._added(x, answer(generator, x)), self.eps, self.box)

    def _added(self, x: Images, raw: Tensor) -> Images:
        eps = per_image(self.eps, x)
        x_adv = x + raw.clamp(-eps, eps)
        return x_adv if self.box is None else x_adv.clamp(*self.box)

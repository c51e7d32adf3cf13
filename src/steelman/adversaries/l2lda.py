"""L2L-DA: a recurrent generator that takes steps as PGD does, with another random vector for each trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from steelman.adversaries.adversary import GENERATOR, Adversary, Learning, answer, defend, with_gradient
from steelman.adversaries.generators.unet import UNet
from steelman.attacks.core import Best, Oracle, evaluation_mode
from steelman.defences.game import Descend, Step, Updates
from steelman.losses import CrossEntropy, Goal
from steelman.norms import Linf, Norm, per_image
from steelman.optimisers import SGD, Optimiser
from steelman.randomness import Draws
from steelman.ranges import INFINITE, Count, Factor, Fraction, Natural
from steelman.types import CLASSIFIER, Batch, Images, Labels, PerImage, Radius, Share

_LATENT = 0x121D
"""Purpose for `Draws.split`."""


@dataclass(frozen=True)
class L2LDA(Adversary):
    """L2L-DA: a recursive, stochastic generator G, as adversary of a classifier that trains against it.

    delta_0 = 0 and z ~ N(0, I), once for the whole trajectory. For t = 0..T-1, with g_t the gradient of the
    cross-entropy at x_t, normalised and a constant (no gradient ever crosses it):

        delta_{t+1} = clamp(delta_t + step_size * G(x, delta_t, g_t, z, y), -eps, eps)
        x_{t+1} = clamp(x + delta_{t+1}, 0, 1), which does not change delta

    G ascends L_cls + diversity * L_div, through all steps, with L_cls = (1/T) sum_t CE(x_t, y) and
    L_div = (1/T) sum_t |x_t(z1) - x_t(z2)|_1 / |z1 - z2|_1 for two draws per image. The classifier then descends
    clean_weight * CE(x, y) + (1 - clean_weight) * CE(x_T, y) over both draws, made by G as it was.

    eps           radius in Linf, default .3 (MNIST; CIFAR-10: 8/255)
    steps         T, default 10 (code, in training and in tests; not in the paper)
    step_size     default eps/4 (code)
    diversity     weight of L_div, default .02 (code, MNIST; CIFAR-10: .5); 0 is the ablation "D x"
    ratio         L_div is the quotient of means over entries, "mean" (default, code), or of sums, "sum" (the paper's
                  equation 7, for which the same weight is diversity * latent / (entries of an image))
    total         L_cls and L_div are means over the steps, "mean" (default, paper), or "sum" (code)
    latent        length of z, default 8; 0 makes G deterministic, and needs diversity 0
    normalise     the norm of the gradient is 1 over the "image" (default; paper) or each "channel" (code); "none"
                  leaves the gradient of each image's own loss as it is. "rms" (ours) is "image" times the root of the
                  number of entries: at norm 1 they are about .04 beside the image's 1, and G may learn one perturbation
                  for all images before it learns to use them
    delta, label  whether G sees delta and y, default True: the ablations
    width, deep   of the U-Net (`UNet`), default 64 and False
    clean_weight  default .5 (paper, algorithm 1); 1/3 is the code's mean over x, x_T(z1) and x_T(z2)
    clip_norm     largest norm of each network's gradient, default 1 (code)
    samples       as an attack: trajectories per image, of which a success, and then the highest loss, is returned.
                  Default 1
    optimiser     of G, default SGD(lr=.01, momentum=.9, weight_decay=1e-5), at a constant rate (code)

    steps=1, step_size=eps are the ablations "R x". L2L* (Chen et al., single-shot, as the authors rebuilt it) is
    steps=1, step_size=eps, diversity=0, latent=0, normalise="none", delta=False, label=False: x + eps * G(x, gradient).
    It is our reading that the gradient is that of each image's own loss, so that G does not depend on the batch size.

    The classifier is in evaluation mode for gradients and G's ascent, in that of the trainer for its own descent; G is
    in train mode while training, and its batch normalisation is over the whole batch, also in several processes. Early
    stopping is by held-out images (`Training.validation`), where the authors' is by test images.

    Cost per image: as an attack, samples (steps - 1) + 1 forward and gradient passes, samples more forward passes where
    that is not 1, and samples * steps forward passes of G; in training 2 steps + 1 forward and gradient passes and
    2 steps forward and backward passes of G, and then 3 forward and backward passes of the classifier.
    Reference: Yunseok Jang, Tianchen Zhao, Seunghoon Hong and Honglak Lee, "Adversarial defense via learning to
    generate diverse attacks", ICCV 2019, section 3; Zhehui Chen, Haoming Jiang, Yuyang Shi, Bo Dai and Tuo Zhao,
    "Learning to defense by learning to attack", arXiv 2018, 1811.01213 (L2L*).

    Raises:
        ValueError: diversity without a latent vector; as an attack, a target, or no generator.
    """

    norm: ClassVar[Norm] = Linf
    sees: ClassVar[tuple[str, ...]] = ("latent", "normalise", "delta", "label")
    batch_size: ClassVar[int] = 100

    eps: Radius = Share(0.3)
    steps: Count = 10
    step_size: Factor | None = None
    diversity: Factor = 0.02
    ratio: Literal["mean", "sum"] = "mean"
    total: Literal["mean", "sum"] = "mean"
    latent: Natural = 8
    normalise: Literal["image", "channel", "rms", "none"] = "image"
    delta: bool = True
    label: bool = True
    width: Count = 64
    deep: bool = False
    clean_weight: Fraction = 0.5
    clip_norm: Annotated[float, Gt(0), INFINITE] = 1.0
    samples: Count = 1
    optimiser: Optimiser = field(default=SGD(lr=0.01, momentum=0.9, weight_decay=1e-5), kw_only=True)

    def __post_init__(self) -> None:
        if self.diversity and not self.latent:
            raise ValueError("without a latent vector all draws are the same: set diversity=0, or latent")

    def network(self, shape: Sequence[int], classes: int) -> UNet:
        labels = classes if self.label else None
        return UNet(shape, labels, width=self.width, latent=self.latent, images=2 + self.delta, deep=self.deep)

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        made = yield from self.learn(nets, batch)
        yield from defend(nets[CLASSIFIER], batch, made, self.clean_weight, self.clip_norm)

    def learn(self, nets: nn.ModuleDict, batch: Batch) -> Learning:
        classifier, generator = nets[CLASSIFIER], nets[GENERATOR]
        draws = Draws.start(batch.seeds, len(batch), batch.x.device)
        turns = 2 if self.latent else 1
        with evaluation_mode(classifier):
            goal = Goal(batch.y)
            slope = self._slope(Oracle(classifier, goal), batch.x, goal)[1].repeat(turns, *[1] * (batch.x.ndim - 1))
            x, goal = torch.cat([batch.x] * turns), Goal(batch.y.repeat(turns))
            z = torch.cat([self._latent(draws, turn, x) for turn in range(turns)])
            oracle = Oracle(classifier, goal)
            delta, x_adv, losses, spread = torch.zeros_like(x), x, [], []
            for _ in range(self.steps):
                delta, x_adv = self._step(generator, x, delta, slope, goal.labels, z)
                loss, slope = self._slope(oracle, x_adv, goal)
                losses.append(with_gradient(loss, x_adv, slope))
                if self.diversity:
                    spread.append(self._spread(x_adv, z))
        gain = self._over_steps(losses).mean()
        if self.diversity:
            gain = gain + self.diversity * self._over_steps(spread).mean()
        yield Descend(-gain, generator.parameters())
        yield Step(GENERATOR, self.clip_norm)
        return Batch(x_adv.detach(), goal.labels)

    def perturb(self, generator: nn.Module, oracle: Oracle, x: Images, y: Labels, draws: Draws) -> Images:
        goal = Goal(y)
        _, clean = self._slope(oracle, x, goal)
        best = Best.nothing(x)
        for turn in range(self.samples):
            z, delta, slope, x_adv = self._latent(draws, turn, x), torch.zeros_like(x), clean, x
            for step in range(self.steps):
                if step:
                    _, slope = self._slope(oracle, x_adv, goal)
                delta, x_adv = self._step(generator, x, delta, slope, y, z)
            x_adv = Linf.contain(x, x_adv, self.eps, self.box)
            if self.samples == 1:
                return x_adv
            logits = oracle.logits(x_adv)
            everywhere = torch.arange(len(x), device=x.device)
            best.take(everywhere, Best(x_adv, goal.reached(logits), CrossEntropy()(logits, goal)))
        return best.x

    def _step(
        self, generator: nn.Module, x: Images, delta: Images, slope: Images, y: Labels, z: Tensor
    ) -> tuple[Images, Images]:
        eps = per_image(self.eps, x)
        move = answer(generator, torch.cat([x, *([delta] if self.delta else []), self._normalised(slope)], 1), z, y)
        delta = (delta + (eps / 4 if self.step_size is None else self.step_size) * move).clamp(-eps, eps)
        return delta, self.in_box(x + delta)

    def _slope(self, oracle: Oracle, x: Images, goal: Goal) -> tuple[PerImage, Images]:
        """The loss and its gradient, constants both."""
        return oracle.ascent(x.detach(), CrossEntropy(), goal)[1:]

    def _normalised(self, slope: Images) -> Images:
        if self.normalise == "none":
            return slope
        flat = slope.flatten(2 if self.normalise == "channel" else 1)
        size = torch.linalg.vector_norm(flat + 1e-15, dim=-1, keepdim=True)  # the code's guard
        scale = flat.shape[1] ** 0.5 if self.normalise == "rms" else 1.0
        return (flat * (scale / size)).reshape(slope.shape)

    def _latent(self, draws: Draws, turn: int, x: Images) -> Tensor:
        return draws.split(_LATENT).split(turn).normal((self.latent,), x.dtype)

    def _spread(self, x_adv: Images, z: Tensor) -> Tensor:
        """The distance between the two trajectories of each image, over that of their z."""
        apart, code = ((each[: len(each) // 2] - each[len(each) // 2 :]).abs().flatten(1) for each in (x_adv, z))
        if self.ratio == "mean":
            return apart.mean(1) / (code.mean(1) + 1e-8)
        return apart.sum(1) / code.sum(1)

    def _over_steps(self, values: list[PerImage]) -> PerImage:
        whole = torch.stack(values)
        return whole.mean(0) if self.total == "mean" else whole.sum(0)

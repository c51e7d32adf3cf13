"""GAP: a generator that perturbs an image in one pass, by all of the radius, towards its least likely class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.adversaries.adversary import GENERATOR, Adversary, Learning, answer, check_radius, defend, standing_for
from steelman.adversaries.generators.resnet_generator import ResNetGenerator
from steelman.attacks.core.attack import Access
from steelman.attacks.core.mode import evaluation_mode
from steelman.attacks.core.oracle import Oracle
from steelman.defences.game import Average, Descend, Step
from steelman.losses import Goal, cross_entropy
from steelman.norms import TINY, Linf, Norm, column, per_image
from steelman.optimisers import Adam, Optimiser
from steelman.randomness import Draws
from steelman.types import CLASSIFIER, Batch, Images, Labels, Logits, PerImage, Radius, Share


@dataclass(frozen=True)
class GAP(Adversary):
    """GAP: a generator G, whose answer is stretched to the radius, leads images to their least likely class.

    x' = clamp(x + eps * G(x) / max|G(x)|, 0, 1), each image by its own maximum, so that before the box every
    perturbation has the size eps exactly. With k the least likely class of the clean image, G descends the mean over
    images of

        log CE(x', k)

    eps           radius in Linf, default .3 (MNIST)
    width         of G, default 64 (code)
    blocks        residual blocks of G, default 6 (code)
    clean_weight  as a defence, of clean images, default .5
    optimiser     of G, default Adam(lr=2e-4, betas=(.5, .999)) (code), for 10 epochs there, of 50 batches of 30

    The image-dependent, untargeted form. The authors' code (OmidPoursaeed/Generative_Adversarial_Perturbations on
    GitHub) differs in four ways. It takes the logarithm of the batch's mean, which is another loss (ours is a mean over
    images, so that G does not depend on the batch size). It takes tanh's answer for an image in [0, 1], normalises that
    as it does images, and then scales each channel down to its radius where it is above. It passes gradients on as if
    neither that nor the box were there; ours are those of the formula. And it gives G images that are normalised. Where
    CE is below 1e-12, its logarithm is that of 1e-12, a constant (ours).

    The classifier is in evaluation mode for G; G is in train mode while training, and its batch normalisation sees the
    whole batch, also over several processes. As a defence (ours) the classifier then descends clean_weight * CE(x, y) +
    (1 - clean_weight) * CE(x', y), with x' made by G as it was.

    Cost per image: as an attack, 1 forward pass on the model, to check it, and 1 of G; in training 2 forward passes and
    1 gradient pass of the classifier and 1 forward and backward pass of G, and as a defence 2 forward and backward
    passes of the classifier more.
    Reference: Omid Poursaeed, Isay Katsman, Bicheng Gao and Serge Belongie, "Generative adversarial perturbations",
    CVPR 2018, section 3.

    Raises:
        ValueError: a radius below 0, a width below 1, blocks below 0; as an attack, a target, or no generator.
    """

    access: ClassVar[Access] = "decisions"
    norm: ClassVar[Norm] = Linf
    batch_size: ClassVar[int] = 30

    eps: Radius = Share(0.3)
    width: int = 64
    blocks: int = 6
    clean_weight: float = 0.5
    optimiser: Optimiser = field(default=Adam(lr=2e-4, betas=(0.5, 0.999)), kw_only=True)

    def __post_init__(self) -> None:
        check_radius(self.eps)
        if self.width < 1 or self.blocks < 0:
            raise ValueError(f"GAP needs width >= 1 and blocks >= 0; got {self.width} and {self.blocks}")
        if not 0 <= self.clean_weight <= 1:
            raise ValueError(f"clean_weight is a share, 0 to 1; got {self.clean_weight}")

    def network(self, shape: Sequence[int], classes: int) -> ResNetGenerator:
        return ResNetGenerator(shape, self.width, self.blocks)

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Average | Step]:
        made = yield from self.learn(nets, batch)
        yield from defend(nets[CLASSIFIER], batch, made, self.clean_weight, None)

    def learn(self, nets: nn.ModuleDict, batch: Batch) -> Learning:
        classifier, generator = nets[CLASSIFIER], nets[GENERATOR]
        x_adv = self._added(batch.x, answer(generator, batch.x))
        with evaluation_mode(classifier):
            oracle = Oracle(classifier, Goal(batch.y))
            least = oracle.logits(batch.x).argmin(1)

            def distance(logits: Logits) -> PerImage:
                return cross_entropy(logits, least).clamp(min=TINY).log()

            _, value, slope = oracle.gradient(x_adv.detach(), distance)
        yield Descend(standing_for(value, x_adv, slope).mean(), generator.parameters())
        yield Step(GENERATOR)
        return Batch(x_adv.detach(), batch.y)

    def perturb(self, generator: nn.Module, oracle: Oracle, x: Images, y: Labels, draws: Draws) -> Images:
        oracle.decisions(x)  # a model that cannot be right is refused
        return Linf.contain(x, self._added(x, answer(generator, x)), self.eps, self.box)

    def _added(self, x: Images, raw: Tensor) -> Images:
        largest = column(Linf.size(raw), raw)
        x_adv = x + per_image(self.eps, x) * (raw / torch.where(largest > 0, largest, 1))
        return x_adv if self.box is None else x_adv.clamp(*self.box)

"""GAP: a generator that perturbs an image in one pass, by all of the radius, towards its least likely class."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.adversaries.adversary import GENERATOR, Learning, OnePass, answer, with_gradient
from steelman.adversaries.generators.resnet_generator import ResNetGenerator
from steelman.attacks.core import Oracle, evaluation_mode
from steelman.defences.game import Descend, Step
from steelman.losses import Goal, cross_entropy
from steelman.norms import TINY, Linf, column, per_image
from steelman.optimisers import Adam, Optimiser
from steelman.ranges import Count, Fraction, Natural
from steelman.types import CLASSIFIER, Batch, Images, Logits, PerImage, Radius, Share


@dataclass(frozen=True)
class GAP(OnePass):
    """GAP: a generator G, whose answer is scaled to the radius, moves images to their least likely class.

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
    as it does images, and then scales each channel down to its radius where it is above. Its gradients leave out that
    and the box; ours are those of the formula. And it gives G images that are normalised. Where CE is below 1e-12, its
    logarithm is that of 1e-12, a constant (ours).

    The classifier is in evaluation mode for G; G is in train mode while training, and its batch normalisation is over
    the whole batch, also in several processes. As a defence (ours) the classifier then descends
    clean_weight * CE(x, y) + (1 - clean_weight) * CE(x', y), with x' made by G as it was.

    Cost per image: as an attack, 1 forward pass on the model, to check it, and 1 of G; in training 2 forward passes and
    1 gradient pass of the classifier and 1 forward and backward pass of G, and as a defence 2 forward and backward
    passes of the classifier more.
    Reference: Omid Poursaeed, Isay Katsman, Bicheng Gao and Serge Belongie, "Generative adversarial perturbations",
    CVPR 2018, section 3.

    Raises:
        ValueError: as an attack, a target, or no generator.
    """

    batch_size: ClassVar[int] = 30

    eps: Radius = Share(0.3)
    width: Count = 64
    blocks: Natural = 6
    clean_weight: Fraction = 0.5
    optimiser: Optimiser = field(default=Adam(lr=2e-4, betas=(0.5, 0.999)), kw_only=True)

    def network(self, shape: Sequence[int], classes: int) -> ResNetGenerator:
        return ResNetGenerator(shape, self.width, self.blocks)

    def learn(self, nets: nn.ModuleDict, batch: Batch) -> Learning:
        classifier, generator = nets[CLASSIFIER], nets[GENERATOR]
        x_adv = self.perturbed(batch.x, answer(generator, batch.x))
        with evaluation_mode(classifier):
            oracle = Oracle(classifier, Goal(batch.y))
            least = oracle.logits(batch.x).argmin(1)

            def distance(logits: Logits) -> PerImage:
                return cross_entropy(logits, least).clamp(min=TINY).log()

            _, value, slope = oracle.gradient(x_adv.detach(), distance)
        yield Descend(with_gradient(value, x_adv, slope).mean(), generator.parameters())
        yield Step(GENERATOR)
        return Batch(x_adv.detach(), batch.y)

    def perturbed(self, x: Images, raw: Tensor) -> Images:
        largest = column(Linf.size(raw), raw)
        return self.in_box(x + per_image(self.eps, x) * (raw / torch.where(largest > 0, largest, 1)))

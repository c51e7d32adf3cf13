"""Adversarial training on one-step images of the network itself, and on iterated ones of a network trained before."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from steelman.attacks.bounded.fgsm import FGSM
from steelman.attacks.core import evaluation_mode
from steelman.data.dataset import Dataset
from steelman.defences.adversarial import Adversarial, crafted
from steelman.defences.objective import refuse_one_class
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.randomness import Draws
from steelman.ranges import Factor, Fraction, Positive
from steelman.types import Batch, Images, PerImage

_RADIUS, _STORED = 0xCA5C, 0xCADE
"""Purposes for `Draws.split`: the radius of an image, and whether it is one that was stored."""


@dataclass(frozen=True)
class Cascade(Adversarial):
    """Cascade adversarial training: one-step images of this network, stored ones of another, and logits kept alike.

    (1/B) sum_i [(CE(x_i, y_i) + factor CE(x'_i, y_i)) / (1 + factor) + (similarity / 2) |z(x'_i) - z(x_i)|_2^2], where
    z are the logits (the paper's unified embedding) and x'_i is a constant. Each image has a radius of its own,
    r_i = min(|N(0, (eps/2)^2)|, eps), and in each epoch a share `stored` of the images has
    x'_i = the stored version of x_i for r_i, made on a network that was defended before; the others have
    x'_i = clip(x_i - r_i sign(grad CE(x_i, l_i))), where l_i is the least likely of the wrong classes.

    factor      weight of an adversarial image, default .3 (code)
    similarity  default 64e-4: the code's 1e-4 weighs the sum over its 64 images, ours the mean
    pivot       "detach" (default; paper): z(x) is constant in the last term, so that only the adversarial image moves
                to the clean one. "code": the gradient goes into both, which is the paper's bidirectional loss; the
                code's pivot variable is made and never used
    eps         the largest radius, default 16/255 (code; CIFAR-10)
    stored      share of images with stored versions, default .5 (code). 0 is the paper's adversarial training with
                pivot loss, which trains the first network

    The chain: plain training of a few epochs; from it, `Cascade(stored=0)`; from the same plain network again, this on
    `prepare = [{ kind = "CraftedPairs", attacks = [...], on = <second recipe> }]`. With n versions, the k-th serves the
    radii from (k - 1) eps / n to k eps / n, so its attack has the radius k eps / n. The code has 16 of them, of
    iterated FGSM with steps of 1/255: e = 1 .. 16 with floor(min(4 + e, 1.25 e)) steps.
    Paper and code: the code's batches have 64 images, of which exactly half are stored ones, as the centre of the image
    instead of a random crop; here a coin is tossed for each image, and a version is cropped as its image is. The code
    takes the least likely of all classes. As there, both halves go through the network together, so batch
    normalisation sees one batch of both. With "detach" the weights do not descend any loss, since z(x) moves with them,
    and training may diverge; "code", or less similarity, is then the remedy.

    It is broken by plain `PGD` with many steps: on CIFAR-10, 15 % are printed at .015 (Athalye, Carlini and Wagner).

    Cost: 2 forward and 1 gradient pass for the share of images that are not stored; 1 forward and 1 backward pass on
    twice the images.
    Reference: Taesik Na, Jong Hwan Ko and Saibal Mukhopadhyay, "Cascade adversarial machine learning regularized with a
    unified embedding", ICLR 2018; Anish Athalye, Nicholas Carlini and David Wagner, "Obfuscated
    gradients give a false sense of security: circumventing defenses to adversarial examples", ICML 2018, section 5.

    Raises:
        ValueError: data without stored versions, where `stored` is above 0; one class.
    """

    factor: Factor = 0.3
    similarity: Factor = 64e-4
    pivot: Literal["detach", "code"] = "detach"
    eps: Positive = 16 / 255
    stored: Fraction = 0.5

    def setup(self, model: nn.Module, data: Dataset) -> "Cascade":
        refuse_one_class("Cascade", len(data.classes))
        if self.stored > 0:
            self._versions(next(iter(data.batches([torch.zeros(1, dtype=torch.int64)]))))
        return self

    def craft(self, model: nn.Module, batch: Batch) -> Batch:
        draws = Draws.start(batch.seeds, len(batch), batch.x.device)
        radius = (self.eps / 2 * draws.split(_RADIUS).normal((), batch.x.dtype)).abs().clamp(max=self.eps)
        stored = draws.split(_STORED).uniform(()) < self.stored
        x = batch.x.clone()
        if bool(stored.any()):
            versions = self._versions(batch)
            count = versions.shape[1]
            level = (radius / self.eps * count).long().clamp(max=count - 1)
            x[stored] = versions[stored, level[stored]].to(x.dtype)
        if bool((own := ~stored).any()):
            x[own] = _one_step(model, batch[own], radius[own])
        return replace(batch, x=x)

    def loss(self, model: nn.Module, batch: Batch, made: Batch) -> Tensor:
        adversarial, clean = logits_of(model, torch.cat([made.x, batch.x])).chunk(2)
        entropies = cross_entropy(clean, batch.y) + self.factor * cross_entropy(adversarial, batch.y)
        apart = adversarial - (clean.detach() if self.pivot == "detach" else clean)
        return (entropies / (1 + self.factor) + self.similarity / 2 * apart.square().sum(1)).mean()

    def _versions(self, batch: Batch) -> Images:
        if batch.crafted is None:
            raise ValueError(
                f"Cascade(stored={self.stored:g}) needs images that were made on a network trained before: prepare = "
                '[{ kind = "CraftedPairs", attacks = [...], on = ... }]; stored = 0 trains without them'
            )
        return batch.crafted


def _one_step(model: nn.Module, batch: Batch, radius: PerImage) -> Images:
    """One step of length `radius` towards the least likely of the wrong classes."""
    with evaluation_mode(model), torch.no_grad():
        logits = logits_of(model, batch.x)
    refuse_one_class("Cascade", logits.shape[1])
    target = logits.scatter(1, batch.y[:, None], torch.inf).argmin(1)
    return crafted(FGSM(eps=radius), model, batch, target=target)

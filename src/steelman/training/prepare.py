"""Data made before training: attacked images, noisy copies, a teacher's labels."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor, nn

from steelman.attacks.core.attack import Attack
from steelman.attacks.core.mode import evaluation_mode
from steelman.data.copies import Copies, Labelled, Noise, Stored
from steelman.data.dataset import Dataset
from steelman.forward import logits_of
from steelman.naming import call
from steelman.randomness import combine
from steelman.ranges import Checked
from steelman.training.parts import describe, in_parts
from steelman.types import Batch

__all__ = ["Crafted", "Guided", "NoisyCopies", "Preparation", "SoftLabels"]

_CRAFT = 0xC4AF7


@dataclass(frozen=True)
class PreparationContext:
    """How a preparation is carried out: where its noise comes from, where it is kept, whether a bar is shown."""

    seed: int
    folder: Path | None
    progress: bool


@dataclass(frozen=True)
class Preparation(Checked, ABC):
    """What is done to the training images, once, before training begins.

    `preparation(data, reference)` is the new data set. `fit(prepare=...)` calls it on what is left when the validation
    images are held out, so that nothing made of one of those is ever trained on. `seed` decides the noise. With a
    `folder`, what takes long is kept there in parts, and another call with the same arguments goes on from them; under
    torchrun the processes share the parts out, and all end with the same bits. The bar is silent without a terminal.

    Raises:
        ValueError: the folder holds what was made otherwise; a reference is needed, or does not fit the data.
    """

    def __call__(
        self,
        data: Dataset,
        reference: nn.Module | None = None,
        *,
        seed: int = 0,
        folder: Path | None = None,
        progress: bool = True,
    ) -> Dataset:
        return self.make(data, reference, PreparationContext(seed, folder, progress))

    @abstractmethod
    def make(self, data: Dataset, reference: nn.Module | None, work: PreparationContext) -> Dataset:
        """The new data set; called by the preparation itself."""

    def __str__(self) -> str:
        return call(self)


@dataclass(frozen=True)
class Guided(Preparation):
    """A preparation that asks a trained network, the reference, which it leaves as it was.

    In a recipe `on` names the reference's recipe (a path relative to this one, or a shipped one), which is trained
    first where it has not been; without it, the reference is the network that the recipe starts from.
    """

    on: str | None = field(default=None, kw_only=True)


@final
@dataclass(frozen=True)
class Crafted(Guided):
    """Offline adversarial training's data: every image attacked once, on a network that is fixed.

    {(x_i, y_i)} and {(attack(reference, x_i, y_i), y_i)}, one of the second for each of the first.

    attack           any that answers image by image. FGSM .3, CIFAR-10 .05, or VirtualAdversarial(2.1, iterations=5),
                     on the undefended network ("Efficient defenses": its AT and VAT); DeepFool ("Adv. Train I" in Deep
                     Defense)
    keep_clean       whether the clean images stay; default True (code of "Efficient defenses"). False is Adv. Train I
    from_prediction  attack the reference's prediction instead of the label, as the code of "Efficient defenses" does;
                     default False
    on               the reference's recipe; default: what this one starts from

    Paper and code differ: in "Efficient defenses" the paper's AT is alpha J(x) + (1 - alpha) J(x_adv) on the network
    that learns, its code this with the undefended network; its VAT is a regulariser in the paper, and this in the code.

    Cost: the attack's, once for each image; training then meets twice the images (keep_clean).
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, section 5.1; Seyed-Mohsen Moosavi-Dezfooli, Alhussein Fawzi and Pascal Frossard, "DeepFool: a
    simple and accurate method to fool deep neural networks", CVPR 2016, section 4.2.

    Raises:
        ValueError: an attack with one answer for all images, or with a radius for each image of a batch.
    """

    attack: Attack
    keep_clean: bool = True
    from_prediction: bool = False

    def __post_init__(self) -> None:
        if self.attack.shared:
            raise ValueError(f"{type(self.attack).__name__} finds one answer for all images; give an attack on each")
        budget = self.attack.budget
        if budget and isinstance(budget[1], Tensor) and budget[1].ndim:
            raise ValueError("the attack has a radius per image, which a whole data set cannot share; give it a number")

    def make(self, data: Dataset, reference: nn.Module | None, work: PreparationContext) -> Dataset:
        network = _needed(self, reference)

        def made(batch: Batch) -> Tensor:
            assert batch.index is not None
            seeds = combine(torch.full_like(batch.index, work.seed), _CRAFT, batch.index)
            with evaluation_mode(network):
                y = _logits(network, batch, data).argmax(1) if self.from_prediction else batch.y
                return self.attack(network, batch.x, y, generator=seeds)

        told = describe(self, data, network, work.seed)
        images = in_parts(data, made, data.shape, told, work.folder, work.progress)
        return Copies(data, Stored(images.to(data.index.device)), (0, 1) if self.keep_clean else (1,))


@final
@dataclass(frozen=True)
class NoisyCopies(Preparation):
    """Gaussian data augmentation as its authors' code has it: copies of each image, with noise that never changes.

    x_i and x_i + d_ij for j = 1 .. copies, d_ij ~ N(0, sigma^2 I), all with the label y_i.

    sigma       default .3 (paper, MNIST; CIFAR-10: .05)
    copies      N, default 10 (paper)
    clip        back into [0, 1]; default False (code)
    keep_clean  whether the clean images stay; default True (code; they are not in the paper's formula)
    noise       "normal" (default), or "uniform" on [-sigma, sigma]

    Nothing is stored: a copy's noise is a hash of its number and the image's. Paper and code differ: the code draws the
    noise once, and holds out for validation the last tenth of all copies, whose originals it trains on; here validation
    images are held out first. `GaussianAugmentation` draws noise anew in every epoch.

    Cost: an epoch has copies + 1 times the images.
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, section 4.2.
    """

    sigma: float = 0.3
    copies: int = 10
    clip: bool = False
    keep_clean: bool = True
    noise: Literal["normal", "uniform"] = "normal"

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < float("inf") or self.copies < 1:
            raise ValueError(f"NoisyCopies needs sigma >= 0 and copies >= 1; got {self.sigma} and {self.copies}")
        if self.noise not in ("normal", "uniform"):
            raise ValueError(f'noise is "normal" or "uniform"; got {self.noise!r}')

    def make(self, data: Dataset, reference: nn.Module | None, work: PreparationContext) -> Dataset:
        change = Noise(self.sigma, self.noise, self.clip, work.seed)
        return Copies(data, change, range(0 if self.keep_clean else 1, self.copies + 1))


@final
@dataclass(frozen=True)
class SoftLabels(Guided):
    """Defensive distillation's data: every image with what the teacher says of it at a high temperature.

    Batch.soft_i = softmax(Z_teacher(x_i) / temperature), beside the labels. Only `Distillation` reads it.

    temperature  T, default 100 (Carlini and Wagner, and the paper's highest): as in the student's `Distillation`
    on           the teacher's recipe, trained by `Distillation` with the same temperature and seed; default: what this
                 recipe starts from

    Cost: 1 forward pass of the teacher for each image.
    Reference: Nicolas Papernot, Patrick McDaniel, Xi Wu, Somesh Jha and Ananthram Swami, "Distillation as a defense to
    adversarial perturbations against deep neural networks", IEEE S&P 2016, section IV.
    """

    temperature: float = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is a positive number; got {self.temperature}")

    def make(self, data: Dataset, reference: nn.Module | None, work: PreparationContext) -> Dataset:
        network = _needed(self, reference)

        def made(batch: Batch) -> Tensor:
            with evaluation_mode(network):
                return (_logits(network, batch, data) / self.temperature).softmax(1)

        told = describe(self, data, network, work.seed)
        soft = in_parts(data, made, (len(data.classes),), told, work.folder, work.progress)
        return Copies(data, Labelled(soft.to(data.index.device)))


def _needed(preparation: Preparation, reference: nn.Module | None) -> nn.Module:
    if reference is None:
        raise ValueError(
            f"{type(preparation).__name__} needs a trained network as its reference: hand it over, or in a recipe name "
            "one by `on` or `start`"
        )
    return reference


@torch.no_grad()
def _logits(network: nn.Module, batch: Batch, data: Dataset) -> Tensor:
    """The reference's logits; raises ValueError where they are not of the data's classes."""
    found = logits_of(network, batch.x)
    if found.shape != (len(batch), len(data.classes)):
        raise ValueError(
            f"the reference answers {len(batch)} images with {tuple(found.shape)}, and {data.name} has "
            f"{len(data.classes)} classes: take a network of the same data"
        )
    return found

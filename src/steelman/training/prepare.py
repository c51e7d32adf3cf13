"""Data made before training: attacked images, noisy copies, a teacher's labels.

What takes long is done once for every image: shared by the processes, kept in parts, and resumed from them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor, nn

from steelman import checkpoint
from steelman.attacks.core.attack import Attack
from steelman.attacks.core.mode import evaluation_mode
from steelman.data.copies import Copies, Labelled, Noise, Paired, Stored
from steelman.data.dataset import Dataset
from steelman.files import decoding
from steelman.forward import logits_of
from steelman.identity import digest, model_parts
from steelman.naming import call
from steelman.progress import ProgressBar
from steelman.randomness import combine
from steelman.ranges import Checked, Count, Factor, Positive
from steelman.training.distributed import processes
from steelman.training.fingerprint import images_of, text_of
from steelman.types import Batch

__all__ = ["Crafted", "CraftedPairs", "Guided", "NoisyCopies", "Preparation", "SoftLabels"]

_CRAFT = 0xC4AF7

BATCH = 250
PART = 20 * BATCH
"""A kill loses at most the part that each process is at."""


@dataclass(frozen=True)
class PreparationContext:
    """How a preparation is carried out: the seed of its noise, the folder of its parts, whether a bar is shown."""

    seed: int
    folder: Path | None
    progress: bool


@dataclass(frozen=True)
class Preparation(Checked, ABC):
    """What is done to the training images, once, before training begins.

    `preparation(data, reference)` is the new data set. `fit(prepare=...)` calls it on the images that are left when the
    validation images are held out, so that nothing made from those is trained on. `seed` decides the noise. With a
    `folder`, what takes long is kept there in parts, from which the same call resumes; under torchrun the processes
    share the parts, and all end with the same bits.

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
    """A preparation that uses a trained network, the reference, without changing it.

    In a recipe `on` names the reference's recipe (a path relative to this one, or a shipped one), which is trained
    first where it has not been; without it, the reference is the network that the recipe starts from.
    """

    on: str | None = field(default=None, kw_only=True)


@final
@dataclass(frozen=True)
class Crafted(Guided):
    """Offline adversarial training's data: every image attacked once, on a network that is fixed.

    {(x_i, y_i)} and {(attack(reference, x_i, y_i), y_i)}, one of the second for each of the first.

    attack      any that answers image by image, on the undefended network. FGSM .3, CIFAR-10 .05, or
                VirtualAdversarial(2.1, iterations=5) ("Efficient defenses": its AT and VAT, whose code has
                `reference="prediction"`); DeepFool ("Adv. Train I" in Deep Defense)
    keep_clean  whether the clean images stay; default True (code of "Efficient defenses"). False is Adv. Train I
    on          the reference's recipe; default: what this one starts from

    Paper and code differ: in "Efficient defenses" the paper's AT is alpha J(x) + (1 - alpha) J(x_adv) on the network
    that learns, its code this with the undefended network; its VAT is a regulariser in the paper, and this in the code.

    Cost: the attack's, once for each image; training then has twice the images (keep_clean).
    Reference: Valentina Zantedeschi, Maria-Irina Nicolae and Ambrish Rawat, "Efficient defenses against adversarial
    attacks", AISec 2017, section 5.1; Seyed-Mohsen Moosavi-Dezfooli, Alhussein Fawzi and Pascal Frossard, "DeepFool: a
    simple and accurate method to fool deep neural networks", CVPR 2016, section 4.2.

    Raises:
        ValueError: an attack with one answer for all images, or with a radius for each image of a batch.
    """

    attack: Attack
    keep_clean: bool = True

    def __post_init__(self) -> None:
        _check_offline(self.attack)

    def make(self, data: Dataset, reference: nn.Module | None, work: PreparationContext) -> Dataset:
        network = _needed(self, reference)
        made, origin = _crafting(self.attack, network, work.seed), _origin(self, data, network, work.seed)
        images = in_parts(data, made, data.shape, origin, work.folder, work.progress)
        return Copies(data, Stored(images.to(data.index.device)), (0, 1) if self.keep_clean else (1,))


@final
@dataclass(frozen=True)
class CraftedPairs(Guided):
    """Every image with attacked versions of it beside it, made on a network that is fixed; `Cascade` trains on them.

    Batch.crafted_ik = attack_k(reference, x_i, y_i), k = 1 .. versions; x_i stays as it is. Augmentations change an
    image and its versions alike.

    attacks  one or more that answer image by image, such as PGD(random_start=False) at growing radii
    on       the reference's recipe; default: what this one starts from

    `Crafted` makes further images of the data set instead, which do not know the image that they were made from.

    Cost: each attack's, once for each image; all versions are held in memory in single precision (16 of CIFAR-10's
    50,000 images are 9.8 GB). An epoch is no longer.
    Reference: Taesik Na, Jong Hwan Ko and Saibal Mukhopadhyay, "Cascade adversarial machine learning regularized with a
    unified embedding", ICLR 2018, section 3.

    Raises:
        ValueError: no attack; one with one answer for all images, or with a radius for each image of a batch.
    """

    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacks", tuple(self.attacks))
        if not self.attacks:
            raise ValueError("CraftedPairs needs at least one attack")
        for attack in self.attacks:
            _check_offline(attack)

    def make(self, data: Dataset, reference: nn.Module | None, work: PreparationContext) -> Dataset:
        network = _needed(self, reference)
        versions = [_crafting(each, network, work.seed) for each in self.attacks]

        def made(batch: Batch) -> Tensor:
            return torch.stack([version(batch) for version in versions], 1)

        shape, origin = (len(versions), *data.shape), _origin(self, data, network, work.seed)
        images = in_parts(data, made, shape, origin, work.folder, work.progress)
        return Copies(data, Paired(images.to(data.index.device)))


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

    sigma: Factor = 0.3
    copies: Count = 10
    clip: bool = False
    keep_clean: bool = True
    noise: Literal["normal", "uniform"] = "normal"

    def make(self, data: Dataset, reference: nn.Module | None, work: PreparationContext) -> Dataset:
        change = Noise(self.sigma, self.noise, self.clip, work.seed)
        return Copies(data, change, range(0 if self.keep_clean else 1, self.copies + 1))


@final
@dataclass(frozen=True)
class SoftLabels(Guided):
    """Defensive distillation's data: every image with the teacher's probabilities at a high temperature.

    Batch.soft_i = softmax(Z_teacher(x_i) / temperature), beside the labels. Only `Distillation` reads it.

    temperature  T, default 100 (Carlini and Wagner, and the paper's highest): as in the student's `Distillation`
    on           the teacher's recipe, trained by `Distillation` with the same temperature and seed; default: what this
                 recipe starts from

    Cost: 1 forward pass of the teacher for each image.
    Reference: Nicolas Papernot, Patrick McDaniel, Xi Wu, Somesh Jha and Ananthram Swami, "Distillation as a defense to
    adversarial perturbations against deep neural networks", IEEE S&P 2016, section IV.
    """

    temperature: Positive = 100.0

    def make(self, data: Dataset, reference: nn.Module | None, work: PreparationContext) -> Dataset:
        network = _needed(self, reference)

        def made(batch: Batch) -> Tensor:
            with evaluation_mode(network):
                return (_logits(network, batch, data) / self.temperature).softmax(1)

        origin = _origin(self, data, network, work.seed)
        soft = in_parts(data, made, (len(data.classes),), origin, work.folder, work.progress)
        return Copies(data, Labelled(soft.to(data.index.device)))


def _check_offline(attack: Attack) -> None:
    """Raises ValueError for an attack whose answers for a whole data set would depend on how it is divided."""
    if attack.shared:
        raise ValueError(f"{type(attack).__name__} finds one perturbation for all images: give another attack")
    budget = attack.budget
    if budget and isinstance(budget[1], Tensor) and budget[1].ndim:
        raise ValueError("the attack has a radius per image, which a whole data set cannot share; give it a number")


def _crafting(attack: Attack, network: nn.Module, seed: int) -> Callable[[Batch], Tensor]:
    """Attacks a batch with noise that belongs to each image."""

    def made(batch: Batch) -> Tensor:
        assert batch.index is not None
        seeds = combine(torch.full_like(batch.index, seed), _CRAFT, batch.index)
        with evaluation_mode(network):  # without a warning where it is in train mode
            return attack(network, batch.x, batch.y, generator=seeds)

    return made


def _needed(preparation: Preparation, reference: nn.Module | None) -> nn.Module:
    if reference is None:
        raise ValueError(
            f"{type(preparation).__name__} needs a trained network as its reference: pass it, or in a recipe name one "
            "by `on` or `start`"
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


def in_parts(
    data: Dataset,
    make: Callable[[Batch], Tensor],
    shape: tuple[int, ...],
    origin: Mapping[str, str],
    folder: Path | None = None,
    progress: bool = True,
) -> Tensor:
    """`make` of every image, in order, in float32 on the CPU: (len(data), *shape).

    Batches, and so the bits, are the same for any number of processes. A part is a file in `folder`, written whole or
    not at all, with `origin`, which says what it was made from.

    Raises:
        ValueError: a part was made of something else; the message names what.
        KeyboardInterrupt: after an interrupt; the message says what is kept.
    """
    group = processes()
    whole = torch.empty(len(data), *shape)
    parts = torch.arange(len(data)).split(PART)
    with group.holding(folder), ProgressBar(progress and group.first, len(data), "preparing") as bar:
        for start in range(0, len(parts), group.world):
            turn = range(start, min(start + group.world, len(parts)))
            if start + group.rank in turn:
                part = parts[start + group.rank]
                file = None if folder is None else folder / f"{part[0]}-{part[-1]}.safetensors"
                whole[part[0] : part[-1] + 1] = _part(data, make, part, origin, file, bar)
            for owner, place in enumerate(turn):
                group.broadcast(whole[parts[place][0] : parts[place][-1] + 1], owner)
    return whole


def _part(
    data: Dataset,
    make: Callable[[Batch], Tensor],
    part: Tensor,
    origin: Mapping[str, str],
    file: Path | None,
    bar: ProgressBar,
) -> Tensor:
    if file is not None and file.exists():
        state = checkpoint.load(file)
        with decoding(file, "a file of prepared images", "Delete it: it is made anew"):
            found, values = dict(state["origin"]), state["values"]
            if not isinstance(values, Tensor) or len(values) != len(part):
                raise ValueError(f"{len(part)} images should be in it")
        changed = [name for name, value in origin.items() if found.get(name, value) != value]
        if changed:
            raise ValueError(
                f"{file.parent} holds data made with another {' and '.join(changed)}: use another folder, or delete "
                "this one"
            )
        bar.advance(len(part))
        return values
    made = []
    try:
        for batch in data.batches(part.split(BATCH)):
            made.append(make(batch).detach().to("cpu", torch.float32))
            bar.advance(len(batch))
    except KeyboardInterrupt as stop:
        kept = "it is not kept" if file is None else f"the same call resumes at image {part[0]}"
        raise KeyboardInterrupt(f"the preparation of {data.name} was interrupted; {kept}") from stop
    values = torch.cat(made)
    if file is not None:
        checkpoint.save(file, {"origin": dict(origin), "values": values})
    return values


def _origin(preparation: object, data: Dataset, reference: nn.Module, seed: int) -> dict[str, str]:
    """What decides the prepared images, by names that a user knows."""
    return {
        "preparation": text_of(preparation),
        "reference": digest(model_parts(reference)),
        "set of images": images_of(data),
        "seed": str(seed),
    }

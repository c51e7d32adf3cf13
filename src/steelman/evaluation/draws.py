"""Random attacks over many draws: the spread of their accuracies, and loss and accuracy at every step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steelman.attacks.core import Attack, evaluation_mode
from steelman.data.dataset import Data
from steelman.evaluation.evaluation import batches_of
from steelman.forward import answer_of
from steelman.losses import cross_entropy
from steelman.measures import Measure
from steelman.measures.line import Axis, Line, Point
from steelman.measures.measure import share
from steelman.randomness import combine
from steelman.types import Batch, Images, Labels, Logits, Model, PerImage, Seeds

STEP = Axis("step")


@dataclass(frozen=True)
class DrawnAccuracy:
    """Accuracies under each draw of an attack, and under all of them together, image by image."""

    draws: tuple[Measure, ...]
    worst_case: Measure

    @property
    def best(self) -> Measure:
        return max(self.draws, key=lambda found: found.value)

    @property
    def worst(self) -> Measure:
        return min(self.draws, key=lambda found: found.value)

    @property
    def mean(self) -> float:
        return float(np.mean([found.value for found in self.draws]))

    def __str__(self) -> str:
        values = (self.best.value, self.mean, self.worst.value, self.worst_case.value)
        best, mean, worst, together = (f"{100 * value:.2f} %" for value in values)
        return f"{len(self.draws)} draws: best {best}, mean {mean}, worst {worst}; image by image {together}"


@dataclass(frozen=True)
class StepCurve:
    """Cross-entropy and accuracy at x_0, ..., x_T, over draws and images.

    largest, mean, deviation  of an image's losses over the draws, the deviation being that of these draws (divided by
                              their number); then the mean over the images
    accuracy, worst_case      the share that is right before the attack and at the step: of all draws and images, and
                              of the images under every draw
    """

    largest: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    accuracy: np.ndarray
    worst_case: np.ndarray

    @property
    def losses(self) -> Line:
        """The largest losses by step; the interval is their deviation to both sides, as in L2L-DA's figure 2."""
        pairs = enumerate(zip(self.largest.tolist(), self.deviation.tolist(), strict=True))
        points = (Point(float(step), loss, loss - by, loss + by) for step, (loss, by) in pairs)
        return Line(tuple(points), STEP, Axis("cross-entropy"))

    @property
    def accuracies(self) -> Line:
        """The accuracy of the attack stopped at each step; the mean over the draws."""
        points = (Point(float(step), float(share)) for step, share in enumerate(self.accuracy))
        return Line(tuple(points), STEP, Axis("accuracy", share=True))


def accuracy_over_draws(
    model: Model, dataset: Data, attack: Attack, draws: int = 10, *, batch_size: int = 250, seed: int = 0
) -> DrawnAccuracy:
    """Accuracies of the same images under several random draws of an attack: of L2LDA's z, of PGD's start.

    An image is correct if it is classified correctly before and after the attack. The worst case counts the images that
    are correct under every draw, as several restarts of one attack do.

    model       as for `evaluate`
    draws       default 10 (L2L-DA's paper)
    batch_size  images at once; it does not change the result, but for rounding inside the model
    seed        an image's noise is a hash of this, of its index and of the draw's number

    Cost: the attack's and 1 forward pass per draw, and 1 forward pass.
    Reference: Yunseok Jang, Tianchen Zhao, Seunghoon Hong and Honglak Lee, "Adversarial defense via learning to
    generate diverse attacks", ICCV 2019, section 5.

    Raises:
        ValueError: no images, draws or batch size below 1.
    """
    rights = []
    for batch in _batches(dataset, draws, batch_size):
        with evaluation_mode(model), torch.no_grad():
            clean = answer_of(model, batch.x).argmax(1) == batch.y
            attacked = [attack(model, batch.x, batch.y, generator=seeds) for seeds in _seeds(batch, draws, seed)]
            rights.append(torch.stack([clean & (answer_of(model, x).argmax(1) == batch.y) for x in attacked]).cpu())
    right = torch.cat(rights, 1).numpy()
    return DrawnAccuracy(tuple(share(each) for each in right), share(np.logical_and.reduce(right)))


def step_curve(
    model: Model, dataset: Data, attack: Attack, draws: int = 10, *, batch_size: int = 250, seed: int = 0
) -> StepCurve:
    """Loss and accuracy at every step of an iterative attack, over random draws, with all steps in one run.

    They are taken at the attack's own gradient passes, which for PGD, MIM and L2LDA are at x_0, ..., x_{T-1}, and at
    the returned images. There x_t is the result of the attack with t steps of this length. For an attack with gradient
    passes at other points (Nesterov's momentum), or that returns the best of them (APGD), they are of those points.

    model, batch_size, seed  as for `accuracy_over_draws`
    attack  asks for `steps` gradients of all images (one where it has no such field), without `stop_early`, restarts,
            targets or samples: take draws instead
    draws   default 10 (paper)

    Cost: the attack's and 1 forward pass per draw, and 1 forward pass.
    Reference: Yunseok Jang, Tianchen Zhao, Seunghoon Hong and Honglak Lee, "Adversarial defense via learning to
    generate diverse attacks", ICCV 2019, figure 2: each step's mean of the largest losses, with the mean standard
    deviation as error bar. The paper does not define the deviation.

    Raises:
        ValueError: no images, draws or batch size below 1; the gradient passes are not one per step and image.
    """
    steps = getattr(attack, "steps", 1)
    sums, count = torch.zeros(5, steps + 1, dtype=torch.float64), 0
    for batch in _batches(dataset, draws, batch_size):
        with evaluation_mode(model):
            with torch.no_grad():
                clean = (answer_of(model, batch.x).argmax(1) == batch.y).cpu()
            draws_of = [_along(model, batch, attack, steps, seeds) for seeds in _seeds(batch, draws, seed)]
        losses, rights = (torch.stack(each).double() for each in zip(*draws_of, strict=True))
        rights = rights * clean
        over = (losses.amax(0), losses.mean(0), losses.std(0, correction=0), rights.mean(0), rights.amin(0))
        sums += torch.stack(over).sum(2)
        count += len(batch)
    return StepCurve(*(sums / count).numpy())


def _along(model: Model, batch: Batch, attack: Attack, steps: int, seeds: Seeds) -> tuple[Tensor, Tensor]:
    """Losses, and whether the predictions are correct, of one draw: each of shape (steps + 1, batch)."""
    recorder = _Recorder(model, batch.y)
    x_adv = attack(recorder, batch.x, batch.y, generator=seeds)
    if len(recorder.losses) != steps:
        raise ValueError(
            f"{attack} asked for {len(recorder.losses)} gradients in {steps} steps, so that they cannot be assigned to "
            "the steps; use no restarts, targets or samples, but more draws"
        )
    with torch.no_grad():
        recorder.keep(answer_of(model, x_adv))
    return torch.stack(recorder.losses).cpu(), torch.stack(recorder.rights).cpu()


class _Recorder:
    """A model that keeps the losses and correct predictions of passes with a graph."""

    def __init__(self, model: Model, y: Labels) -> None:
        self.model, self.y = model, y
        self.losses: list[PerImage] = []
        self.rights: list[Tensor] = []

    def __call__(self, x: Images) -> Logits:
        logits = answer_of(self.model, x)
        if logits.requires_grad:
            if len(x) != len(self.y):
                raise ValueError(
                    f"the attack asked for gradients of {len(x)} of {len(self.y)} images, so the others' loss at this "
                    "step is not known; set stop_early=False, or use an attack that moves all images at every step"
                )
            self.keep(logits.detach())
        return logits

    def keep(self, logits: Logits) -> None:
        self.losses.append(cross_entropy(logits, self.y))
        self.rights.append(logits.argmax(1) == self.y)


def _batches(dataset: Data, draws: int, batch_size: int) -> Iterator[Batch]:
    if draws < 1 or batch_size < 1:
        raise ValueError(f"draws and batch_size must be at least 1; got {draws} and {batch_size}")
    return batches_of(dataset, batch_size)[0]


def _seeds(batch: Batch, draws: int, seed: int) -> Iterator[Seeds]:
    assert batch.index is not None
    base = torch.full((len(batch),), seed)
    return (combine(base, batch.index.cpu(), draw) for draw in range(draws))

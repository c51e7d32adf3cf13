"""What every attack is: called for perturbed images, or run for a result that has been verified."""

import time
from abc import ABC, abstractmethod
from dataclasses import MISSING, Field, dataclass, field, fields

import torch
from torch import Tensor

from steelman.attacks.oracle import Oracle, warn_if_mode_matters
from steelman.losses import Goal, cross_entropy
from steelman.norms import L0, L1, L2, Linf, per_image
from steelman.randomness import Draws
from steelman.types import Box, Flags, Images, Labels, Model, PerImage, Randomness


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, image by image.

    `success` is re-verified on the returned images in a fresh forward pass. Distances are in the units of the images;
    `loss` is the cross-entropy with the true label. `forwards` and `gradients` count the passes that each image cost,
    the verification not included; `seconds` is the whole batch's time.
    """

    x_adv: Images
    success: Flags
    prediction: Labels
    loss: PerImage
    l0: PerImage
    l1: PerImage
    l2: PerImage
    linf: PerImage
    forwards: Tensor
    gradients: Tensor
    seconds: float

    def __repr__(self) -> str:
        count = len(self.success)
        won = int(self.success.sum())
        middle = float(self.l2[self.success].median()) if won else float("nan")
        passes = float(self.gradients.double().mean()) if count else 0.0
        return (
            f"AttackResult({won} of {count} succeeded, median L2 of these {middle:.4g}, "
            f"{passes:.1f} gradient passes per image, {self.seconds:.3g} s)"
        )


@dataclass(frozen=True)
class Attack(ABC):
    """A method that perturbs images so that a model misclassifies them.

    `attack(model, x, y)` returns the perturbed images; `attack.run(model, x, y)` also verifies and measures them.
    `model` is an `nn.Module` or any callable from images to logits; modules are attacked in evaluation mode with
    their parameters frozen, and found as they were. With `target`, the goal is that class instead of any wrong one.
    `generator` is a `torch.Generator`, or one int64 seed per image; the same seed gives the same bits, whatever else is
    in the batch. `box` is the valid range of the images; None leaves them unbounded, as papers do whose images are
    preprocessed.

    Raises:
        ValueError: images, labels, targets or logits that cannot be right; the message names the value and the remedy.
    """

    box: Box | None = field(default=(0.0, 1.0), kw_only=True)

    def __call__(
        self, model: Model, x: Images, y: Labels, *, target: Labels | None = None, generator: Randomness = None
    ) -> Images:
        return self._craft(model, x, y, target, generator)[0]

    def run(
        self, model: Model, x: Images, y: Labels, *, target: Labels | None = None, generator: Randomness = None
    ) -> AttackResult:
        """Attack, then verify on the returned images: one more forward pass."""
        start = time.perf_counter()
        x_adv, oracle = self._craft(model, x, y, target, generator)
        seconds = time.perf_counter() - start
        forwards, gradients = oracle.forwards.clone(), oracle.gradients.clone()
        with oracle:
            logits = oracle.logits(x_adv)
            delta = x_adv.double() - x.double()
            return AttackResult(
                x_adv=x_adv,
                success=Goal(y, target).reached(logits),
                prediction=logits.argmax(1),
                loss=cross_entropy(logits, y),
                l0=L0.size(delta),
                l1=L1.size(delta),
                l2=L2.size(delta),
                linf=Linf.size(delta),
                forwards=forwards,
                gradients=gradients,
                seconds=seconds,
            )

    @abstractmethod
    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        """The method itself, on checked input; gradients are off, `oracle` turns them on where it needs them."""

    def _craft(
        self, model: Model, x: Images, y: Labels, target: Labels | None, generator: Randomness
    ) -> tuple[Images, Oracle]:
        check_images(x, self.box)
        check_labels("y", y, x)
        if target is not None:
            check_labels("target", target, x)
        eps = getattr(self, "eps", None)
        if eps is not None:
            per_image(eps, x)
        warn_if_mode_matters(model, x)
        with torch.inference_mode(False):
            x, goal = x.detach().clone(), Goal(y.clone(), None if target is None else target.clone())
            oracle = Oracle(model, x, goal)
            if len(x) == 0:
                return x, oracle
            with oracle:
                x_adv = self.search(oracle, x, goal, Draws.start(generator, len(x), x.device))
        return x_adv, oracle

    def __str__(self) -> str:
        """The call that makes this attack, with only the fields that differ from their defaults."""
        changed = (
            f"{item.name}={_short(getattr(self, item.name))}"
            for item in sorted(fields(self), key=lambda item: bool(item.kw_only))  # the method's own first
            if not _is_default(getattr(self, item.name), item)
        )
        return f"{type(self).__name__}({', '.join(changed)})"


def _is_default(value: object, item: Field) -> bool:
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return value is default or (not isinstance(value, Tensor) and value == default)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check_images(x: Images, box: Box | None) -> None:
    """Raises ValueError unless `x` is a finite float batch within `box`."""
    if not x.is_floating_point():
        raise ValueError(f"images must be floats in [0, 1]; got {x.dtype}. For bytes, use x.float() / 255")
    if x.ndim < 2:
        raise ValueError(f"images must be a batch, of shape (batch, channels, height, width); got {tuple(x.shape)}")
    if x.numel() == 0:
        return
    low, high = x.detach().aminmax()
    if not bool(low.isfinite() & high.isfinite()):
        raise ValueError("images hold NaN or infinite values")
    if box is not None and bool((low < box[0]) | (high > box[1])):
        raise ValueError(
            f"images must lie in [{box[0]:g}, {box[1]:g}]; these reach from {low:.4g} to {high:.4g}. Scale bytes by "
            "1/255, make normalisation a layer of the model, or pass box=None for an unbounded attack"
        )


def check_labels(name: str, labels: Labels, x: Images) -> None:
    """Raises ValueError unless `labels` is int64, one class from 0 up per image."""
    if labels.dtype != torch.int64 or labels.shape != (len(x),):
        raise ValueError(
            f"{name} must be int64 of shape ({len(x)},), one class per image; got {labels.dtype} {tuple(labels.shape)}"
        )
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"{name} must be classes from 0 up; got {int(labels.min())}")

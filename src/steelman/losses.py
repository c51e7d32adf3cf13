"""What an attack increases, always one number per image; callers sum or average.

A loss is called with logits and a `Goal`. Larger means nearer to the goal: an untargeted goal is to leave the label, a
targeted one to reach the target.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from steelman.types import Flags, Indices, Labels, Logits, PerImage


@dataclass(frozen=True)
class Goal:
    """What counts as success: leave `labels`, or, when `target` is given, be classified as `target`.

    `reference` holds the logits of the unperturbed images for losses that compare with them.
    """

    labels: Labels
    target: Labels | None = None
    reference: Logits | None = None

    def __getitem__(self, which: Indices) -> "Goal":
        return replace(
            self,
            labels=self.labels[which],
            target=None if self.target is None else self.target[which],
            reference=None if self.reference is None else self.reference[which],
        )

    def met(self, prediction: Labels) -> Flags:
        return prediction != self.labels if self.target is None else prediction == self.target

    def reached(self, logits: Logits) -> Flags:
        return self.met(logits.argmax(1))


@dataclass(frozen=True)
class Loss(ABC):
    """A number per image that an attack increases."""

    needs_reference: ClassVar[bool] = False

    @property
    def scale_free(self) -> "Loss | None":
        """The same loss with a gradient whose direction is not lost in rounding, where there is one."""
        return None

    @property
    def order(self) -> "Loss":
        """A loss by which images of one goal stand in the same order, also where this one is flat by rounding."""
        return self

    def check_input(self, targeted: bool, classes: int | None) -> None:
        """Raises ValueError for a target, or a number of classes where that is known, that the loss cannot take."""
        return

    @abstractmethod
    def __call__(self, logits: Logits, goal: Goal) -> PerImage: ...


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log softmax(Z)_y; targeted: log softmax(Z)_t. Its gradient is that of `SoftMargin` times 1 - p, which is lost in
    rounding where the model is sure."""

    @property
    def scale_free(self) -> "Loss":
        return _Precise()

    @property
    def order(self) -> "Loss":
        return SoftMargin()  # CE = log(1 + exp s), and -log(1 + exp -s) when targeted: both grow with s

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        if goal.target is None:
            return cross_entropy(logits, goal.labels)
        return -cross_entropy(logits, goal.target)


@dataclass(frozen=True)
class _Precise(Loss):
    """`CrossEntropy`, but its gradient is that of `SoftMargin` times 1 - p without rounding p, and at least 1e-12.

    The factor is no matter of an image alone, but it weighs images where batch normalisation in train mode mixes them.
    """

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        if goal.target is None:
            return _PreciseFunction.apply(precise(logits), goal.labels)
        return -_PreciseFunction.apply(precise(logits), goal.target)


class _PreciseFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Logits, labels: Labels) -> PerImage:
        value = F.cross_entropy(logits, labels, reduction="none")
        ctx.save_for_backward(logits, labels, value)
        return value

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        logits, labels, value = ctx.saved_tensors
        pivot = labels[:, None]
        unsure = 1 - value.neg().exp_()
        others = logits.scatter(1, pivot, -torch.inf).softmax(1).scatter_(1, pivot, -1.0)
        return others.mul_((slopes[0] * unsure.clamp_(min=1e-12))[:, None]), None


def margin(logits: Logits, labels: Labels) -> PerImage:
    """max_{k != y} Z_k - Z_y: negative while the label wins."""
    logits = precise(logits)
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - own[:, 0]


@dataclass(frozen=True)
class Margin(Loss):
    """min(max_{k != y} Z_k - Z_y, confidence), Carlini and Wagner's hinge; targeted: min(Z_t - max_{k != t} Z_k, .).

    `confidence` is in logits; infinity (default) never switches the gradient off. Madry's "CW+" has 50.
    """

    confidence: float = float("inf")

    def __post_init__(self) -> None:
        if not self.confidence >= 0:
            raise ValueError(f"confidence is in logits, 0 or above; got {self.confidence}")

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        value = margin(logits, goal.labels) if goal.target is None else -margin(logits, goal.target)
        return value if self.confidence == float("inf") else value.clamp(max=self.confidence)


@dataclass(frozen=True)
class LogitDifference(Loss):
    """Z_t - Z_y, the label against one target (Gowal et al., "An alternative surrogate loss for PGD-based adversarial
    testing", 2019, equation 4); untargeted: max_{k != y} Z_k - Z_y."""

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        if goal.target is None:
            return margin(logits, goal.labels)
        logits = precise(logits)
        return (logits.gather(1, goal.target[:, None]) - logits.gather(1, goal.labels[:, None]))[:, 0]


@dataclass(frozen=True)
class SoftMargin(Loss):
    """log sum_{k != y} exp Z_k - Z_y; targeted: Z_t - log sum_{k != t} exp Z_k (Ding et al., ICLR 2020, section 2.3).

    Larger than 0 where the label has less than half of the softmax, which is stricter than to be misclassified.
    """

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        logits, pivot = precise(logits), (goal.labels if goal.target is None else goal.target)[:, None]
        value = logits.scatter(1, pivot, -torch.inf).logsumexp(1) - logits.gather(1, pivot)[:, 0]
        return value if goal.target is None else -value


@dataclass(frozen=True)
class DLR(Loss):
    """Difference of logits ratio, free of the logits' scale (Croce and Hein, ICML 2020, eq. 6 and 7).

    With Z sorted descending as Z_(1), Z_(2), ...: (max_{k != y} Z_k - Z_y) / (Z_(1) - Z_(3)); targeted:
    (Z_t - Z_y) / (Z_(1) - (Z_(3) + Z_(4)) / 2). The denominator has 1e-12 added. With `or_margin`, a model with too few
    classes gets the plain margin instead of an error.

    Raises:
        ValueError: fewer than three classes, or four when targeted, without `or_margin`.
    """

    or_margin: bool = False

    def check_input(self, targeted: bool, classes: int | None) -> None:
        needed = 4 if targeted else 3
        if classes is not None and classes < needed and not self.or_margin:
            raise ValueError(f"DLR needs at least {needed} classes here; the model has {classes}. Use Margin")

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        needed = 3 if goal.target is None else 4
        self.check_input(goal.target is not None, logits.shape[1])
        if logits.shape[1] < needed:
            return Margin()(logits, goal)
        top = precise(logits).topk(needed, dim=1).values
        if goal.target is None:
            return margin(logits, goal.labels) / (top[:, 0] - top[:, 2] + 1e-12)
        return LogitDifference()(logits, goal) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def kl_divergence(reference: Logits, logits: Logits) -> PerImage:
    """KL(softmax(reference) || softmax(logits)), differentiable in both."""
    log_p, log_q = F.log_softmax(precise(reference), 1), F.log_softmax(precise(logits), 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


@dataclass(frozen=True)
class KL(Loss):
    """KL(p(x) || p(x')) to the prediction on the unperturbed image; labels play no part (VAT, TRADES).

    Its gradient is 0 at x' = x, so an attack needs a random start.
    """

    needs_reference: ClassVar[bool] = True

    def check_input(self, targeted: bool, classes: int | None) -> None:
        if targeted:
            raise ValueError("KL has no targeted form: it only leaves the clean prediction. Use CrossEntropy or Margin")

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        if goal.reference is None:
            raise ValueError("KL compares with the logits of the unperturbed images: give them as Goal.reference")
        self.check_input(goal.target is not None, None)
        return kl_divergence(goal.reference, logits)


def cross_entropy(logits: Logits, labels: Tensor) -> PerImage:
    """Per image, with labels as classes or as probabilities."""
    return F.cross_entropy(precise(logits), labels, reduction="none")


def precise(logits: Logits) -> Logits:
    """Logits of at least float32: a softmax in half precision is lost in rounding, and a KL of it turns negative."""
    return logits if logits.dtype.itemsize >= 4 else logits.float()

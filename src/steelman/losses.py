"""What an attack increases, always one number per image; callers sum or average.

A loss is called with logits and a `Goal`. Larger means nearer to the goal: an untargeted goal is to leave the label, a
targeted one to reach the target.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from steelman.ranges import Checked, Factor
from steelman.types import Flags, Labels, Logits, PerImage, Rows


@dataclass(frozen=True)
class Goal(Rows):
    """What counts as success: leave `labels`, or, when `target` is given, be classified as `target`.

    `reference` holds the logits of the unperturbed images for losses that compare with them.
    """

    labels: Labels
    target: Labels | None = None
    reference: Logits | None = None

    @property
    def named(self) -> Labels:
        """The class that the goal names: the target, or else the label."""
        return self.labels if self.target is None else self.target

    def met(self, prediction: Labels) -> Flags:
        return prediction != self.labels if self.target is None else prediction == self.target

    def reached(self, logits: Logits) -> Flags:
        return self.met(logits.argmax(1))


def other_logits(logits: Logits, labels: Labels) -> Logits:
    """The logits with -infinity for the label."""
    return logits.scatter(1, labels[:, None], -torch.inf)


def top_rivals(logits: Logits, labels: Labels, count: int) -> Tensor:
    """The `count` highest classes but the label, or all of them where there are fewer; of shape (batch, rivals)."""
    return other_logits(logits, labels).topk(min(count, logits.shape[1] - 1), dim=1).indices


@dataclass(frozen=True)
class Loss(Checked, ABC):
    """A number per image that an attack increases."""

    needs_reference: ClassVar[bool] = False

    @property
    def scale_free(self) -> "Loss | None":
        """The same loss with a gradient whose direction is not lost in rounding, where there is one."""
        return None

    @property
    def order(self) -> "Loss":
        """A loss that orders images of one goal as this one does, also where this one is flat by rounding."""
        return self

    def check_input(self, targeted: bool, classes: int | None) -> None:
        """Raises ValueError for a target, or a number of classes where that is known, that the loss cannot take."""
        return

    @abstractmethod
    def __call__(self, logits: Logits, goal: Goal) -> PerImage: ...


def _signed(measure: Callable[[Logits, Labels], PerImage], logits: Logits, goal: Goal) -> PerImage:
    """A measure of how far an image is from a class: of the label, or minus that of the target."""
    value = measure(logits, goal.named)
    return value if goal.target is None else -value


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
        return _signed(cross_entropy, logits, goal)


@dataclass(frozen=True)
class RoundedCrossEntropy(Loss):
    """`CrossEntropy` with the gradient that most code computes: softmax(Z) - e_y, in the precision of the logits.

    Where the label's softmax rounds to 1 (from 17 between the highest logits on in float32) the label's own share of
    the gradient is lost, and its direction is wrong; further on all of it is 0. Attacks by it seem to fail there. Only
    to compare with numbers that were measured so, such as Deep Defense's accuracies under FGS.
    """

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        return _signed(cross_entropy, logits, goal)


@dataclass(frozen=True)
class _Precise(Loss):
    """`CrossEntropy`, but its gradient is that of `SoftMargin` times 1 - p without rounding p, and at least 1e-12.

    The factor does not change the direction of one image, but it weighs images where batch normalisation in train mode
    mixes them.
    """

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        return _signed(_PreciseFunction.apply, precise(logits), goal)


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
        away = logits.scatter(1, pivot, -torch.inf).softmax(1).scatter_(1, pivot, -1.0)
        return away.mul_((slopes[0] * unsure.clamp_(min=1e-12))[:, None]), None


def margin(logits: Logits, labels: Labels) -> PerImage:
    """max_{k != y} Z_k - Z_y: negative where the label has the highest logit."""
    logits = precise(logits)
    return other_logits(logits, labels).amax(1) - logits.gather(1, labels[:, None])[:, 0]


@dataclass(frozen=True)
class Margin(Loss):
    """min(max_{k != y} Z_k - Z_y, confidence), Carlini and Wagner's hinge; targeted: min(Z_t - max_{k != t} Z_k, .).

    `confidence` is in logits; infinity (default) never switches the gradient off. Madry's "CW+" has 50.
    """

    confidence: Factor = float("inf")

    def __call__(self, logits: Logits, goal: Goal) -> PerImage:
        value = _signed(margin, logits, goal)
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
        return _signed(_soft_margin, precise(logits), goal)


def _soft_margin(logits: Logits, labels: Labels) -> PerImage:
    return other_logits(logits, labels).logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]


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
        return LogitDifference()(logits, goal) / (top[:, 0] - top[:, 2:].mean(1) + 1e-12)


def kl_divergence(reference: Logits, logits: Logits) -> PerImage:
    """KL(softmax(reference) || softmax(logits)), differentiable in both."""
    log_p, log_q = F.log_softmax(precise(reference), 1), F.log_softmax(precise(logits), 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


@dataclass(frozen=True)
class KL(Loss):
    """KL(p(x) || p(x')) to the prediction on the unperturbed image, without labels (VAT, TRADES).

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

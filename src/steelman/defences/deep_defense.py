"""A differentiable DeepFool as a penalty on small robustness."""

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.dropout import Masks, shared_dropout
from steelman.defences.gradient_penalty import refuse_compiled
from steelman.defences.objective import Objective, refuse_one_class
from steelman.forward import logits_of
from steelman.losses import cross_entropy, top_rivals
from steelman.networks.preprocess import peel
from steelman.networks.surgery import freeze_batchnorm, only_trainable, rehearsal
from steelman.norms import TINY
from steelman.ranges import INFINITE, Count, Factor
from steelman.types import Batch, Flags, Images, Indices, Labels, PerImage

log = logging.getLogger(__name__)

EXPONENT_CAP = 20.0


@dataclass(frozen=True)
class DeepDefense(Objective):
    """Deep Defense: cross-entropy, and an exponential penalty on images that a small DeepFool perturbation moves.

    (1/B) [sum_k CE_k + weight (sum_{k correct} exp(-c rho_k) + sum_{k wrong} exp(d rho_k))], with
    rho_k = |D_k|_p / |x_k|_p. D_k is DeepFool's perturbation: away from the label for correct images, towards the label
    for wrong ones (two classes only: the one predicted at the moment, and the label). D_k stays in the graph: its
    logits, its gradients and its earlier steps are all differentiated; which boundary was nearest, which images are
    done and the order of classes are constants.

    weight    lambda, default 15 (paper, MNIST and CIFAR-10; ImageNet 5)
    c         default 25 (paper; NIN 70, ImageNet 500)
    d         default 5 (paper); d rho is capped at 20, since a targeted DeepFool may diverge; capped images are logged
    p         norm of D and x, default 2 (paper); 1 <= p <= infinity
    steps     at most, default 5 (authors' code; not in the paper)
    overshoot  default .02 (code); D = (1 + overshoot) * sum of steps, done or not
    damping   added to each entry of the gradient inside its norm, default 5e-6 (code, MNIST; CIFAR 1e-5),
              on its images of 0 to 255: on images of 0 to 1, 255 times that is the same
    classes   how many of the highest logits compete, the image's own among them; default 10 (code; all of them on MNIST
              and CIFAR-10). Fewer cost less: see below
    layers    names of submodules; the penalty's gradient reaches only them (the paper's layer-wise study). Default all
    legacy_from_class  wrong images: after its first step the authors' code takes the logit of the previous class, and
              the gradient of the new one. True repeats that; default False

    Paper and code differ: the paper's eq. 6 sums the penalty, the code divides it by the batch size, as we do. Both act
    in the preprocessed space: on a `Preprocessed` model x is the inner network's input. Nothing is clipped.
    Batch normalisation runs in evaluation mode and learns nothing (code). Dropout shares one mask between an image and
    its perturbations.

    Cost: per step and image not yet done 2 forward and classes gradient passes, and the double back-propagation through
    one forward and one gradient pass; the class is chosen without a graph. A batch from the paper's LeNet reference
    costs 11.3 plain ones, with classes=5 7.3 and with classes=4 6.6. The batch's gradient then changes by 0 and by .5 %
    (median of 15 batches; at most by 1.2 and 2.3 %). After 120 updates from there, rho_2 on 500 test images was .230
    with 10 classes and .232 with 5 (one seed; .203 before).
    Reference: Ziang Yan, Yiwen Guo and Changshui Zhang, "Deep Defense: training DNNs with improved adversarial
    robustness", NeurIPS 2018, section 3.

    Raises:
        ValueError: a compiled network, which cannot be differentiated twice; one class; no such layer.
    """

    weight: Factor = 15.0
    c: Factor = 25.0
    d: Factor = 5.0
    p: Annotated[float, Ge(1), INFINITE] = 2.0
    steps: Count = 5
    overshoot: Factor = 0.02
    damping: Factor = 5e-6
    classes: Annotated[int, Ge(2)] = 10
    layers: tuple[str, ...] | None = None
    legacy_from_class: bool = False

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))

    @property
    def batch_statistics(self) -> bool:
        return False

    def setup(self, model: nn.Module, data: Dataset) -> "DeepDefense":
        refuse_compiled(model)
        with (
            only_trainable(model, self.layers),
            rehearsal(model, data) as x,
            freeze_batchnorm(model),
            shared_dropout(model, len(x)),
        ):
            logits_of(model, x)
        return self

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        refuse_compiled(model)
        network, x = peel(model, batch.x)
        with ExitStack() as stack:
            stack.enter_context(freeze_batchnorm(network))
            masks = stack.enter_context(shared_dropout(network, len(x)))
            raw = x.clone().requires_grad_()
            logits = logits_of(network, raw)
            refuse_one_class("DeepDefense", logits.shape[1])
            loss = cross_entropy(logits, batch.y).mean()
            if self.layers is not None:
                stack.enter_context(only_trainable(model, self.layers))
                logits = logits_of(network, raw)
            correct = logits.argmax(1) == batch.y
            exponents = []
            for which, total in self._perturb(network, x, raw, logits, batch.y, correct, masks):
                size = (1 + self.overshoot) * _p_norm(total, self.p)
                rho = size / _p_norm(x[which], self.p).clamp(min=TINY)
                exponents.append(torch.where(correct[which], -self.c * rho, self.d * rho))
            return loss + self.weight * _capped(torch.cat(exponents)).exp().sum() / len(x)

    def _perturb(
        self, network: nn.Module, x: Images, raw: Images, logits: Tensor, y: Labels, correct: Flags, masks: Masks
    ) -> Iterator[tuple[Indices, Tensor]]:
        """DeepFool's sums of steps, in the graph, in groups that end together: (places in the batch, sums).

        `raw` is a leaf equal to `x`, and `logits` are its logits.
        """
        which = torch.arange(len(x), device=x.device)
        rivals = self._rivals(logits.detach(), y, correct)
        own = logits.argmax(1)
        start, total = x, torch.zeros_like(x)
        for step in range(self.steps):
            before = own
            own = torch.where(correct, own, logits.argmax(1))
            place = self._nearest(logits, raw, own, rivals)
            rival = rivals.gather(1, place[:, None])
            gap = (logits.gather(1, rival) - logits.gather(1, own[:, None]))[:, 0]
            (slope,) = torch.autograd.grad(gap.sum(), raw, create_graph=True)
            if self.legacy_from_class:
                gap = (logits.gather(1, rival) - logits.gather(1, before[:, None]))[:, 0]
            total = total + self._step(gap, slope)
            if step == self.steps - 1:
                break
            with torch.no_grad():
                prediction = logits_of(network, start + (1 + self.overshoot) * total).argmax(1)
            fooled = torch.where(correct, prediction != own, prediction == y)
            done, stay = torch.where(fooled)[0], torch.where(~fooled)[0]
            if len(done):
                yield which[done], total[done]
                if len(stay) == 0:
                    return
                which, start, total, rivals = which[stay], start[stay], total[stay], rivals[stay]
                own, correct, y = own[stay], correct[stay], y[stay]
                masks.rows = which
            raw = start + total
            logits = logits_of(network, raw)
        yield which, total

    def _rivals(self, logits: Tensor, y: Labels, correct: Flags) -> Tensor:
        """The classes whose boundaries compete: the highest of the others, or only the label of a wrong image."""
        others = top_rivals(logits, logits.argmax(1), self.classes - 1)
        return torch.where(correct[:, None], others, y[:, None])

    def _nearest(self, logits: Tensor, raw: Images, own: Labels, rivals: Tensor) -> Tensor:
        """For each image the column of `rivals` whose linearised boundary is nearest, chosen without a graph."""
        q = _dual(self.p)
        nearest = torch.full((len(raw),), torch.inf, dtype=raw.dtype, device=raw.device)
        place = torch.zeros_like(own)
        gaps = (logits.gather(1, rivals) - logits.gather(1, own[:, None])).unbind(1)
        for column, gap in enumerate(gaps):
            (slope,) = torch.autograd.grad(gap.sum(), raw, retain_graph=True)
            distance = gap.detach().abs() / _p_norm(slope + self.damping, q)
            place = torch.where(distance < nearest, column, place)
            nearest = torch.minimum(distance, nearest)
        return place

    def _step(self, gap: PerImage, slope: Images) -> Images:
        """The shortest step, in the p-norm, onto the boundary that is linearised as gap + <slope, step> = 0."""
        column = (-1,) + (1,) * (slope.ndim - 1)
        q = _dual(self.p)
        norm = _p_norm(slope + self.damping, q)
        if q == 2:
            return (gap.abs() / norm.square()).reshape(column) * slope
        if q == math.inf:
            top = slope.flatten(1).abs().argmax(1, keepdim=True)
            only = torch.zeros_like(slope.flatten(1)).scatter(1, top, 1.0).reshape(slope.shape)
            return (gap.abs() / norm).reshape(column) * only * slope.sign()
        magnitude = torch.where(slope == 0, 1.0, slope.abs()) ** (q - 1)  # a power's slope at 0 is infinite
        return (gap.abs() / norm**q).reshape(column) * magnitude * slope.sign()


def _capped(exponent: PerImage) -> PerImage:
    """At most 20: a DeepFool that is led to the label of a wrong image may diverge."""
    if capped := int((exponent > EXPONENT_CAP).sum()):
        log.warning("DeepDefense: d * rho is above %g for %d of %d images: capped", EXPONENT_CAP, capped, len(exponent))
    return exponent.clamp(max=EXPONENT_CAP)


def _dual(p: float) -> float:
    return math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)


def _p_norm(delta: Images, p: float) -> PerImage:
    return torch.linalg.vector_norm(delta.flatten(1), ord=p, dim=1)

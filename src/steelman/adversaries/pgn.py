"""PGN: a generator that perturbs in one pass, and pays for the size of what it does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.adversaries.adversary import GENERATOR, Adversary, Learning, standing_for
from steelman.adversaries.generators.pgn_generator import PGNGenerator
from steelman.attacks.core.mode import evaluation_mode
from steelman.attacks.core.oracle import Oracle
from steelman.defences.game import Average, Descend, Step
from steelman.forward import logits_of
from steelman.losses import CrossEntropy, Goal, cross_entropy
from steelman.networks.surgery import borrowed_buffers, no_recomputation
from steelman.norms import L2, Norm
from steelman.optimisers import Adam, Optimiser
from steelman.randomness import Draws
from steelman.types import CLASSIFIER, Batch, Images, Labels, Logits, PerImage

INSIDE = 0.999999
"""What keeps the inverse of tanh finite at black and white (code)."""


@dataclass(frozen=True)
class PGN(Adversary):
    """PGN: a generator G, bounded by no radius but by a penalty, as adversary of a classifier that trains against it.

    G sees the image x in [-1, 1], the label y and g = grad_scale * grad_x F(x)_y, with F the softmax, and shifts the
    image in the space of tanh: x_adv = (tanh(atanh(.999999 (2 x - 1)) + G(x, g, y)) + 1) / 2. With delta = x_adv - x,
    the generator descends -CE(x_adv, y) + c |delta|_2^2, the classifier
    (1 - adv_weight) CE(x, y) + adv_weight CE(x_adv, y). Both descents are taken at the weights from before either
    network's step.

    c             weight of the penalty, default 50 (paper's tables; code: 70). The smaller, the stronger
    adv_weight    from above 0 to 1, default 1: adversarial images alone (code)
    detach_adv    whether x_adv is a constant of the classifier's loss. Default False: it is differentiated through G
                  and g as well, to second order, as the code does; the paper is silent
    norm_term_to_classifier  whether the classifier also descends -adv_weight c |delta|^2, which reaches it through g
                  alone: the paper's eq. 4, where both networks share one objective. Default False, as the code
    grad_scale    default 1/128: the code takes the gradient of the mean of F over its batches of 128, so that its
                  generator depends on the batch size; a factor does not. It is for many thousands of batches: in
                  hundreds, G makes something only of a larger one, such as 10 (examples/pgn.py)
    gradient, image, label  what G sees, default True each: the ablations of figure 8
    width, hidden  of G (`PGNGenerator`), default 128 and 1024 (paper)
    optimiser     of G, default Adam(5e-4) (code), which there also trains the classifier

    A `generator` that is given sees what it saw when it was trained, on that scale. As an attack it moves every image,
    also those that are wrong already, by as much as is worth its price. Of other boxes than [0, 1], G sees images and
    gradients as if they were that, and pays for delta in that measure.

    g is the gradient in evaluation mode; CE(x_adv, y) is that of one forward pass in the trainer's mode, for both
    losses. (The code's network has no layer with modes.) In `AttackTraining` all is in evaluation mode. The two
    networks have an optimiser each; the code's share one, in which Adam keeps their moments apart all the same, but
    counts its steps double. The code evaluates an average of both networks' weights (decay .998); `Training.ema` is
    that of the classifier's, and G stays as it is.

    Where generators learn for minutes, `grad_scale` is larger, and so is what `norm_term_to_classifier` changes: on
    Digits, the gradient of the norm term is .05 % of the cross-entropy's at 1/128, 4 to 7 % at 1 and 25 to 37 % at 10
    (benchmarks/pgn_norm_term.py).

    Cost per image: as an attack, 1 forward and gradient pass (none without `gradient`) and 1 forward pass of G. In
    training 2 forward and backward passes of the classifier, 3 where there are clean images, and 1 of G; unless
    detach_adv also 1 more backward pass of G, and 1 through the classifier's gradient, which is about 2 passes.
    Reference: Hyeungill Lee, Sungyeob Han and Jungwoo Lee, "Adversarial training with perturbation generator networks",
    OpenReview 2019, section 3.

    Raises:
        ValueError: a weight out of its range, no box, a norm term that has no way to the classifier; as an attack, a
            target, or no generator.
    """

    norm: ClassVar[Norm] = L2
    sees: ClassVar[tuple[str, ...]] = ("gradient", "image", "label")

    c: float = 50.0
    adv_weight: float = 1.0
    detach_adv: bool = False
    norm_term_to_classifier: bool = False
    grad_scale: float = 1 / 128
    gradient: bool = True
    image: bool = True
    label: bool = True
    width: int = 128
    hidden: int = 1024
    optimiser: Optimiser = field(default=Adam(lr=5e-4), kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.c < float("inf") or not 0 < self.adv_weight <= 1:
            raise ValueError(
                "PGN needs c of at least 0 and adv_weight from above 0 to 1 (for clean images alone, use Plain); got "
                f"{self.c} and {self.adv_weight}"
            )
        if not 0 < self.grad_scale < float("inf"):
            raise ValueError(
                f"grad_scale is a factor above 0 (to hide the gradient, gradient=False); got {self.grad_scale}"
            )
        if self.norm_term_to_classifier and (self.detach_adv or not self.gradient):
            raise ValueError(
                "norm_term_to_classifier reaches the classifier through the gradient that G sees: leave detach_adv at "
                "False and gradient at True, or norm_term_to_classifier out"
            )
        if self.width < 1 or self.hidden < 1:
            raise ValueError(f"PGN needs width and hidden of at least 1; got {self.width} and {self.hidden}")
        if self.box is None or not self.box[0] < self.box[1]:
            raise ValueError(f"PGN writes images by tanh, which needs a box, such as (0.0, 1.0); got {self.box}")

    def network(self, shape: Sequence[int], classes: int) -> PGNGenerator:
        return PGNGenerator(
            shape,
            classes,
            width=self.width,
            hidden=self.hidden,
            gradient=self.gradient,
            image=self.image,
            label=self.label,
            grad_scale=self.grad_scale,
        )

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Average | Step]:
        classifier, generator = nets[CLASSIFIER], nets[GENERATOR]
        x, y, weights = batch.x, batch.y, list(classifier.parameters())
        slope = self._slope(classifier, x, y) if self.gradient else None
        x_adv = self._perturbed(generator, x, slope, y)
        leaf = x_adv.detach().requires_grad_()
        adversarial = cross_entropy(logits_of(classifier, leaf), y)
        loss = self.adv_weight * adversarial.mean()
        if self.adv_weight < 1:  # a pass of its own, so that batch normalisation does not mix the two
            loss = loss + (1 - self.adv_weight) * cross_entropy(logits_of(classifier, x), y).mean()
        share: list[Tensor] = []  # the trainer may weight a loss, and the pull must not have that weight twice
        loss.register_hook(share.append)
        yield Descend(loss, [*weights, leaf])
        assert leaf.grad is not None
        pull = leaf.grad / share[0].where(share[0] != 0, 1)
        if slope is not None and slope.requires_grad:
            through = (pull * (x_adv - leaf.detach())).sum()
            if self.norm_term_to_classifier:
                through = through - self.adv_weight * self.c * self._size(x, x_adv).mean()
            yield Descend(through, weights, keep=True)
        cost = self._cost(x, x_adv, adversarial, pull * len(y) / self.adv_weight)
        yield Descend(cost, generator.parameters())
        yield Step(CLASSIFIER)
        yield Step(GENERATOR)

    def learn(self, nets: nn.ModuleDict, batch: Batch) -> Learning:
        classifier, generator, goal = nets[CLASSIFIER], nets[GENERATOR], Goal(batch.y)
        with evaluation_mode(classifier):
            oracle = Oracle(classifier, goal)
            x_adv = self._perturbed(generator, batch.x, self._seen(oracle, batch.x, batch.y), batch.y)
            _, loss, slope = oracle.ascent(x_adv.detach(), CrossEntropy(), goal)
        yield Descend(self._cost(batch.x, x_adv, loss, slope), generator.parameters())
        yield Step(GENERATOR)
        return Batch(x_adv.detach(), batch.y)

    def perturb(self, generator: nn.Module, oracle: Oracle, x: Images, y: Labels, draws: Draws) -> Images:
        return self._perturbed(generator, x, self._seen(oracle, x, y), y)

    def _perturbed(self, generator: nn.Module, x: Images, slope: Images | None, y: Labels) -> Images:
        assert self.box is not None
        low, high = self.box
        shown, like = 2 * (x - low) / (high - low) - 1, next(generator.parameters())
        if slope is not None:
            slope = (slope * (high - low)).to(like.dtype)
        shift = generator(shown.to(like.dtype), slope, y).to(x.dtype)
        inside = (torch.atanh(shown * INSIDE) + shift).tanh()
        return (low + (high - low) * (inside + 1) / 2).clamp(low, high)

    def _cost(self, x: Images, x_adv: Images, loss: PerImage, slope: Images) -> Tensor:
        """What the generator descends, where `loss` is that of `x_adv`, and `slope` its gradient."""
        return (self.c * self._size(x, x_adv) - standing_for(loss, x_adv, slope)).mean()

    def _size(self, x: Images, x_adv: Images) -> PerImage:
        """|delta|^2, in units of the box."""
        assert self.box is not None
        return ((x_adv - x) / (self.box[1] - self.box[0])).square().flatten(1).sum(1)

    def _seen(self, oracle: Oracle, x: Images, y: Labels) -> Images | None:
        return oracle.gradient(x, lambda logits: _truth(logits, y))[2] if self.gradient else None

    def _slope(self, classifier: nn.Module, x: Images, y: Labels) -> Images:
        """As `_seen`, and a function of the classifier's weights unless these are not to know."""
        x = x.detach().requires_grad_()
        with (
            no_recomputation(classifier, not self.detach_adv and any(each.training for each in classifier.modules())),
            evaluation_mode(classifier, frozen=self.detach_adv),
            borrowed_buffers(classifier.modules()),
        ):
            truth = _truth(logits_of(classifier, x), y).sum()
            return torch.autograd.grad(truth, x, create_graph=not self.detach_adv)[0]


def _truth(logits: Logits, y: Labels) -> PerImage:
    """The probability of the true class."""
    return logits.softmax(1).gather(1, y[:, None])[:, 0]

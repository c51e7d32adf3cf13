"""PGN: a generator that perturbs in one pass, with a penalty on the size of its perturbation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from steelman.adversaries.adversary import GENERATOR, Adversary, Learning, answer, with_gradient
from steelman.adversaries.generators.pgn_generator import PGNGenerator
from steelman.attacks.core import Oracle, evaluation_mode
from steelman.defences.game import Descend, Step, Updates, unweighted
from steelman.forward import logits_of
from steelman.losses import CrossEntropy, Goal, cross_entropy
from steelman.networks.surgery import borrowed_buffers, no_recomputation
from steelman.norms import L2, Norm
from steelman.optimisers import Adam, Optimiser
from steelman.randomness import Draws
from steelman.ranges import Count, Factor, FractionBelow1, Positive
from steelman.types import CLASSIFIER, Batch, Images, Labels, Logits, PerImage

INSIDE = 0.999999
"""What keeps the inverse of tanh finite at black and white (code)."""


@dataclass(frozen=True)
class PGN(Adversary):
    """PGN: a generator G, bounded by no radius but by a penalty, as adversary of a classifier that trains against it.

    G sees the image x in [-1, 1], the label y and g = grad_scale * grad_x F(x)_y, with F the softmax, and shifts the
    image in the space of tanh: x_adv = (tanh(atanh(.999999 (2 x - 1)) + G(x, g, y)) + 1) / 2. With delta = x_adv - x,
    the generator descends -CE(x_adv, y) + norm_weight |delta|_2^2, the classifier
    clean_weight CE(x, y) + (1 - clean_weight) CE(x_adv, y). Both descents are taken at the weights from before either
    network's step.

    norm_weight   c in the paper, default 50 (paper's tables; code: 70). The smaller, the larger the perturbation
    clean_weight  from 0 to below 1, default 0: adversarial images alone (code)
    detach_adv    whether x_adv is a constant of the classifier's loss. Default False: it is differentiated through G
                  and g as well, to second order, as in the code; the paper does not say
    norm_term_to_classifier  whether the classifier also descends -(1 - clean_weight) norm_weight |delta|^2, which
                  reaches it through g alone: the paper's eq. 4, one objective for both networks. Default False (code)
    grad_scale    default 1/128: the code takes the gradient of the mean of F over its batches of 128, so that its
                  generator depends on the batch size; a factor does not. It is for many thousands of batches: in
                  hundreds, G learns only with a larger one, such as 10 (examples/pgn.py)
    gradient, image, label  what G sees, default True each: the ablations of figure 8
    width, hidden  of G (`PGNGenerator`), default 128 and 1024 (paper)
    optimiser     of G, default Adam(5e-4) (code), which there also trains the classifier

    A given `generator` has the inputs, and their scale, that it was trained with. As an attack it moves every image,
    also those that are misclassified already. Images and gradients of another box than [0, 1] are scaled to that box,
    in which |delta| is measured too.

    g is the gradient in evaluation mode; CE(x_adv, y) is that of one forward pass in the trainer's mode, for both
    losses. (The code's network has no layer with modes.) In `AttackTraining` all is in evaluation mode. The two
    networks have an optimiser each; the code's share one, in which Adam has separate moments for them, but counts its
    steps double. The code evaluates an average of both networks' weights (decay .998); `Training.ema` averages the
    classifier's alone.

    With a larger `grad_scale`, `norm_term_to_classifier` changes more: the gradient of the norm term was .05 % of the
    cross-entropy's at 1/128, 4 to 7 % at 1 and 25 to 37 % at 10 (median over 200 batches of Digits, c of 1 and 50).

    Cost per image: as an attack, 1 forward and gradient pass (none without `gradient`) and 1 forward pass of G. In
    training 2 forward and backward passes of the classifier, 3 where there are clean images, and 1 of G; unless
    detach_adv also 1 more backward pass of G, and 1 through the classifier's gradient, which is about 2 passes.
    Reference: Hyeungill Lee, Sungyeob Han and Jungwoo Lee, "Adversarial training with perturbation generator networks",
    OpenReview 2019, section 3.

    Raises:
        ValueError: no box; a norm term that cannot reach the classifier; as an attack, a target, or no generator.
    """

    norm: ClassVar[Norm] = L2
    sees: ClassVar[tuple[str, ...]] = ("gradient", "image", "label")

    norm_weight: Factor = 50.0
    clean_weight: FractionBelow1 = 0.0
    detach_adv: bool = False
    norm_term_to_classifier: bool = False
    grad_scale: Positive = 1 / 128
    gradient: bool = True
    image: bool = True
    label: bool = True
    width: Count = 128
    hidden: Count = 1024
    optimiser: Optimiser = field(default=Adam(lr=5e-4), kw_only=True)

    def __post_init__(self) -> None:
        if self.norm_term_to_classifier and (self.detach_adv or not self.gradient):
            raise ValueError(
                "norm_term_to_classifier reaches the classifier through the gradient that G sees: leave detach_adv at "
                "False and gradient at True, or norm_term_to_classifier out"
            )
        if self.box is None:
            raise ValueError("PGN writes images by tanh, which needs a box, such as (0.0, 1.0); got None")

    def network(self, shape: Sequence[int], classes: int) -> PGNGenerator:
        inputs = {"gradient": self.gradient, "image": self.image, "label": self.label}
        return PGNGenerator(shape, classes, width=self.width, hidden=self.hidden, grad_scale=self.grad_scale, **inputs)

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        classifier, generator, adv_weight = nets[CLASSIFIER], nets[GENERATOR], 1 - self.clean_weight
        x, y, weights = batch.x, batch.y, list(classifier.parameters())
        slope = self._slope(classifier, x, y) if self.gradient else None
        x_adv = self._perturbed(generator, x, slope, y)
        leaf = x_adv.detach().requires_grad_()
        adversarial = cross_entropy(logits_of(classifier, leaf), y)
        loss = adv_weight * adversarial.mean()
        if self.clean_weight > 0:  # a pass of its own, so that batch normalisation does not mix the two
            loss = loss + self.clean_weight * cross_entropy(logits_of(classifier, x), y).mean()
        of_loss = unweighted(loss)  # the pull must not have the trainer's weight twice
        yield Descend(loss, [*weights, leaf])
        assert leaf.grad is not None
        pull = of_loss(leaf.grad)
        if slope is not None and slope.requires_grad:
            through = (pull * (x_adv - leaf.detach())).sum()
            if self.norm_term_to_classifier:
                through = through - adv_weight * self.norm_weight * self._size(x, x_adv).mean()
            yield Descend(through, weights, keep=True)
        cost = self._cost(x, x_adv, adversarial, pull * len(y) / adv_weight)
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
        shown = 2 * (x - low) / (high - low) - 1
        shift = answer(generator, shown, None if slope is None else slope * (high - low), y)
        inside = (torch.atanh(shown * INSIDE) + shift).tanh()
        return (low + (high - low) * (inside + 1) / 2).clamp(low, high)

    def _cost(self, x: Images, x_adv: Images, loss: PerImage, slope: Images) -> Tensor:
        """What the generator descends, where `loss` is that of `x_adv`, and `slope` its gradient."""
        return (self.norm_weight * self._size(x, x_adv) - with_gradient(loss, x_adv, slope)).mean()

    def _size(self, x: Images, x_adv: Images) -> PerImage:
        """|delta|^2, in units of the box."""
        assert self.box is not None
        return ((x_adv - x) / (self.box[1] - self.box[0])).square().flatten(1).sum(1)

    def _seen(self, oracle: Oracle, x: Images, y: Labels) -> Images | None:
        return oracle.gradient(x, lambda logits: _truth(logits, y))[2] if self.gradient else None

    def _slope(self, classifier: nn.Module, x: Images, y: Labels) -> Images:
        """As `_seen`, but a function of the classifier's weights, unless `detach_adv`."""
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

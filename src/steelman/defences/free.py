"""Adversarial training whose perturbations cost nothing."""

from dataclasses import dataclass
from typing import Annotated

from torch import nn

from steelman.attacks.core import Ball, check_radius
from steelman.defences.game import Descend, Game, Step, Updates
from steelman.forward import logits_of
from steelman.losses import cross_entropy
from steelman.norms import L2, Linf, Norm, per_image
from steelman.randomness import Draws
from steelman.ranges import Count, Factor, OneOf
from steelman.types import CLASSIFIER, Batch, Box

_START = 0xF4EE
"""Purpose for `Draws.split`."""


@dataclass(frozen=True)
class Free(Game):
    """Free adversarial training: every backward pass moves both the network and the images.

    x_0 is uniform in the ball around x. Then `replays` times: one backward pass of the mean CE(x_t, y) gives the
    gradients of the weights and of x_t; the optimiser takes a step, and x_{t+1} = P(x_t + step_size * steepest(grad)),
    where P projects onto ball and box, as in `PGD`.

    eps        radius, default 8/255 (paper, CIFAR-10)
    replays    m, how often each batch is trained on, default 8 (paper, CIFAR-10)
    step_size  default eps (paper)
    norm       Linf (default, the only one of the paper) or L2
    box        the valid range of the images, default (0, 1); None leaves them unbounded

    The optimiser steps m times per batch, so the paper divides the epochs by m. Schedules change once per batch, and
    the loss that is logged is the sum over the replays.

    Paper and code differ from this: they start a batch from the perturbations that the last batch ended with, which
    belong to other images; ours start from noise of their own, which is the same in one process and in two. They clip
    images to the box within the network, where a clipped entry has no gradient and so does not move; ours are projected
    onto it. The network is in training mode throughout, as theirs.

    Cost: `replays` forward and backward passes per batch, and as many steps.
    Reference: Ali Shafahi, Mahyar Najibi, Amin Ghiasi, Zheng Xu, John Dickerson, Christoph Studer, Larry S. Davis,
    Gavin Taylor and Tom Goldstein, "Adversarial training for free!", NeurIPS 2019, section 4, algorithm 1.

    Raises:
        ValueError: eps wider than the box in Linf; another norm.
    """

    eps: Factor = 8 / 255
    replays: Count = 8
    step_size: Factor | None = None
    norm: Annotated[Norm, OneOf((Linf, L2))] = Linf
    box: Box | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps, self.box, "Free")

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        net = nets[CLASSIFIER]
        ball = Ball.around(batch.x, self.eps, self.norm, self.box)
        step = per_image(self.eps if self.step_size is None else self.step_size, batch.x, "step_size")
        x = ball.sample(Draws.start(batch.seeds, len(batch), batch.x.device).split(_START))
        for replay in range(self.replays):
            if replay:
                assert x.grad is not None
                x = ball.climb(x.detach(), x.grad, step)
            x.requires_grad_(replay < self.replays - 1)
            yield Descend(cross_entropy(logits_of(net, x), batch.y).mean(), [*net.parameters(), x])
            yield Step()

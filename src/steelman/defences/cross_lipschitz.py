"""A penalty on how fast the differences of logits change."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelman.defences.gradient_penalty import GradientPenalty, slope, squared
from steelman.ranges import Factor
from steelman.types import Batch, Images, Logits, PerImage


@dataclass(frozen=True)
class CrossLipschitz(GradientPenalty):
    """Cross-Lipschitz regularisation: cross-entropy, and the squared gradients of all differences of two logits.

    (1/B) sum_i [CE_i + (weight / K^2) sum_j sum_k |grad_x Z_j(x_i) - grad_x Z_k(x_i)|_2^2].

    weight  lambda, default 1e-4 (an example of the authors' code, for adversarial training; the paper tunes it)

    Only differences count, so that the sums need K - 1 gradients: with g_k = grad_x (Z_k - Z_K), they are
    2 K sum_k |g_k|^2 - 2 |sum_k g_k|^2. The code takes K gradients and all pairs; for one hidden layer a closed form.
    Derivatives are as in `JacobianRegularisation`.

    Cost: 1 forward pass, K - 1 gradient passes with a graph, and the double back-propagation through them.
    Reference: Matthias Hein and Maksym Andriushchenko, "Formal guarantees on the robustness of a classifier against
    adversarial manipulation", NeurIPS 2017, section 4.

    Raises:
        ValueError: a compiled network, which cannot be differentiated twice; one class.
    """

    weight: Factor = 1e-4

    def penalty(self, x: Images, logits: Logits, losses: PerImage, batch: Batch) -> Tensor:
        *others, last = logits.unbind(1)
        slopes = [slope(each - last, x) for each in others]
        classes = logits.shape[1]
        pairs = 2 * classes * torch.stack([squared(each) for each in slopes]).sum(0)
        return (pairs - 2 * squared(torch.stack(slopes).sum(0))).mean() / classes**2

"""A penalty on how fast the differences of logits change."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from steelman.defences.gradient_penalty import GradientPenalty, projected, slope, squared
from steelman.naming import LATER
from steelman.ranges import Count, Factor
from steelman.types import Batch, Images, Logits, PerImage


@dataclass(frozen=True)
class CrossLipschitz(GradientPenalty):
    """Cross-Lipschitz regularisation: cross-entropy, and the squared gradients of all differences of two logits.

    (1/B) sum_i [CE_i + (weight / K^2) sum_j sum_k |grad_x Z_j(x_i) - grad_x Z_k(x_i)|_2^2].

    weight       lambda, default 1e-4 (an example of the authors' code, for adversarial training; the paper tunes it)
    projections  n: instead of all differences, n random combinations of an image's logits (ours),
                 sum_j sum_k |grad_x (Z_j - Z_k)|_2^2 ~ (2 K (K - 1) / n) sum_m |grad_x <v_m, Z>|_2^2 with v_m uniform
                 on the unit vectors that sum to 0. Unbiased. Default exact

    Only differences count, so that the sums need K - 1 gradients: with g_k = grad_x (Z_k - Z_K), they are
    2 K sum_k |g_k|^2 - 2 |sum_k g_k|^2. The code takes K gradients and all pairs; for one hidden layer a closed form.
    Derivatives are as in `JacobianRegularisation`.

    Cost: 1 forward pass, K - 1 (or n) gradient passes with a graph, and the double back-propagation through them: on
    LeNet with 100 classes 88 times plain training, and 2.1 times for n = 1, as for any K.
    Reference: Matthias Hein and Maksym Andriushchenko, "Formal guarantees on the robustness of a classifier against
    adversarial manipulation", NeurIPS 2017, section 4.

    Raises:
        ValueError: a compiled network, which cannot be differentiated twice; one class.
    """

    weight: Factor = 1e-4
    projections: Count | None = field(default=None, metadata=LATER)

    def penalty(self, x: Images, logits: Logits, losses: PerImage, batch: Batch) -> Tensor:
        classes = logits.shape[1]
        if self.projections is not None:
            return 2 * (classes - 1) / classes * projected(x, logits, batch, self.projections, centred=True).mean()
        *others, last = logits.unbind(1)
        slopes = [slope(each - last, x) for each in others]
        pairs = 2 * classes * torch.stack([squared(each) for each in slopes]).sum(0)
        return (pairs - 2 * squared(torch.stack(slopes).sum(0))).mean() / classes**2

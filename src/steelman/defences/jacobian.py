"""A penalty on the Jacobian of the logits."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.gradient_penalty import GradientPenalty, projected, refuse_compiled, slope, squared
from steelman.norms import TINY
from steelman.ranges import Count, Factor
from steelman.types import Batch, Images, Logits, PerImage


@dataclass(frozen=True)
class JacobianRegularisation(GradientPenalty):
    """Jacobian regularisation: cross-entropy, and the Frobenius norm of the logits' Jacobian.

    (1/B) sum_i [CE_i + weight |J_i|_F], |J_i|_F^2 = sum_k |grad_x Z_k(x_i)|_2^2 over all K classes.

    weight       lambda, default .1 (authors' code)
    root         "image" (default): the mean of |J_i|_F. "batch": the paper's sqrt((1/B) sum_i |J_i|_F^2), which is one
                 root for all images of a descent. "none": the mean of |J_i|_F^2 (Hoffman et al., whose weight is twice
                 ours)
    projections  n: instead of all rows of J, n random combinations of them per image,
                 |J_i|_F^2 ~ (K/n) sum_m |grad_x <v_m, Z(x_i)>|_2^2 with v_m uniform on the unit sphere (Hoffman et al.,
                 n = 1). Unbiased for the square, so with "none"; a root of it is a little too small. Default exact

    Paper and code differ: the paper sums over the batch under one root, without the mean; its code (as far as we read
    it) takes the Jacobian of the first image of each batch of 500 only, so that its weight of .1 is one for the norm of
    a single image, as in "image". We repeat neither. Under "batch", each micro-batch has a root of its own, and several
    processes are refused.
    Derivatives are with respect to pixels, through a model's own preprocessing. In train mode batch normalisation makes
    an image's logits depend on others; J_i is then the derivative of each logit's sum over the batch.

    Cost: 1 forward pass, K (or n) gradient passes with a graph, and the double back-propagation through them: 8 to 11
    times plain training for K = 10, measured on LeNet and a convolutional network. Rows are taken one by one: a batched
    pass took 1.1 to 1.9 times as long, copies of the batch 1.7 to 3 times. Time and memory grow with K: LeNet with 100
    classes takes 89 times plain training, and 330 MiB more for a batch of 50 (`Training.micro_batch` of 10: 70 MiB).
    Projections bound both for any K: 2.1 times for n = 1, 11 for n = 10.
    Reference: Daniel Jakubovitz and Raja Giryes, "Improving DNN robustness to adversarial attacks using Jacobian
    regularization", ECCV 2018, section 3; Judy Hoffman, Daniel A. Roberts and Sho Yaida, "Robust learning with Jacobian
    regularization", arXiv 2019, 1908.02729, section 2.

    Raises:
        ValueError: a compiled network, which cannot be differentiated twice; one class; root "batch" in several
            processes.
    """

    weight: Factor = 0.1
    root: Literal["image", "batch", "none"] = "image"
    projections: Count | None = None

    def setup(self, model: nn.Module, data: Dataset) -> "JacobianRegularisation":
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if self.root == "batch" and several and torch.distributed.get_world_size() > 1:
            raise ValueError(
                'root = "batch" is one root for a whole batch, of which each process has a part; train in one process, '
                'or with root = "image"'
            )
        refuse_compiled(model)
        return self

    def penalty(self, x: Images, logits: Logits, losses: PerImage, batch: Batch) -> Tensor:
        squares = self._squares(x, logits, batch)
        if self.root == "batch":
            squares = squares.mean()
        # Where J is 0, a root has no gradient; that of a clamp is 0.
        return (squares if self.root == "none" else squares.clamp(min=TINY**2).sqrt()).mean()

    def _squares(self, x: Images, logits: Logits, batch: Batch) -> PerImage:
        if self.projections is None:
            return torch.stack([squared(slope(row, x)) for row in logits.unbind(1)]).sum(0)
        return logits.shape[1] * projected(x, logits, batch, self.projections)

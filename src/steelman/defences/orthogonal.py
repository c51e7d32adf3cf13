"""A penalty on weights that are not orthogonal."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steelman.defences.objective import Objective
from steelman.defences.parseval import weighted_layers
from steelman.defences.plain import Plain
from steelman.defences.weight_penalty import WeightPenalty
from steelman.ranges import Factor


@dataclass(frozen=True)
class Orthogonal(WeightPenalty):
    """Orthogonal regularisation: an objective, and a penalty on how far weight matrices are from orthonormal ones.

    L + weight sum_l |W_l W_l^T - I|_F^2, with the gradient 4 weight (W W^T - I) W. A layer with orthonormal rows does
    not lengthen any vector, so it does not enlarge a perturbation.

    objective  L, default Plain(); any other objective, such as AdversarialTraining
    weight     default 1e-3 (ours)

    W is a Linear's weight, or that of a Conv as (out, in k k), in each group of a grouped one; frozen weights, biases
    and normalisations are left out. A tall W (more rows than columns) can only have orthonormal columns, so there it is
    |W^T W - I|^2, which has the same gradient and the minimum 0.
    `Parseval` pulls the same matrices after each step instead, on a share of their rows: its pull is a gradient step
    on a quarter of this.
    The paper has beta/2 sum_l |W_l^T W_l - I|_F^2 on networks whose activations are quantised.

    It is no wall: `PGD` breaks it as it breaks the network without it.

    Cost: the objective's, and per layer two products of matrices; no pass.
    Reference: Ji Lin, Chuang Gan and Song Han, "Defensive quantization: when efficiency meets robustness", ICLR 2019,
    section 4; Moustapha Cisse, Piotr Bojanowski, Edouard Grave, Yann Dauphin and Nicolas Usunier, "Parseval networks:
    improving robustness to adversarial examples", ICML 2017, section 4.

    Raises:
        ValueError: a network without such layers that learn.
    """

    objective: Objective = Plain()
    weight: Factor = 1e-3

    def penalty(self, model: nn.Module) -> Tensor:
        layers = weighted_layers(model)
        if not layers:
            raise ValueError(
                f"Orthogonal takes weights of linear and convolutional layers; {type(model).__name__} has none that "
                "learn"
            )
        parts = [part for each in layers for part in each.weight.flatten(1).chunk(getattr(each, "groups", 1))]
        return self.weight * torch.stack([_distance(part) for part in parts]).sum()


def _distance(matrix: Tensor) -> Tensor:
    """|W W^T - I|_F^2, of the smaller of the two products."""
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    gram = wide @ wide.T
    return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum()

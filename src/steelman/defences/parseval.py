"""Weights kept near Parseval tight frames."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from steelman.data.dataset import Dataset
from steelman.defences.game import Game, GameWrapper, Step, Updates
from steelman.defences.plain import Plain
from steelman.ranges import Factor, FractionAbove0
from steelman.types import CLASSIFIER, Batch

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Parseval(GameWrapper[Game]):
    """Parseval training: after each step, weight matrices are pulled towards orthonormal rows.

    For a random share S of the rows (output units) of each weight matrix W: W_S <- (1 + beta) W_S - beta W_S W_S^T W_S.
    That is a gradient step of length beta on (1/4) |W_S W_S^T - I|_F^2, and every singular value s of W_S becomes
    s + beta s (1 - s^2): all values between 0 and sqrt(1 + 2/beta) are drawn to 1 (one above grows).

    objective   what the step descends, default Plain(); any defence, or game of one network
    beta        default 1e-4 (Deep Defense's "Par. Train", MNIST; CIFAR-10 3e-4)
    rows        share of the rows, at least one of them, default .3 (paper: 30 %), drawn anew for each layer and step
    conv_scale  pull k W instead of W, where k^2 is the number of places of a kernel. A convolution reads each pixel up
                to k^2 times, so only then is its gain at most 1. Default False

    W is a Linear's weight, or that of a Conv as (out, in k k), in each group of a grouped one; frozen weights, biases
    and normalisations stay. A wide W (no more rows than columns) can become a tight frame, W W^T = I. A tall one
    cannot: with all rows at once its columns become orthonormal, W^T W = I, but a share of no more rows than columns
    is pulled to orthonormal rows, which not all shares can have at once; the result is a compromise.
    Paper and code: the paper prints the objective as (beta/2) |W^T W - I|^2, which has the same minima, but whose
    gradient step is 4 times as long as the printed update; we follow the update. It also divides each convolution's
    output by k, which here would be `conv_scale`, and keeps the coefficients of sums of layers convex; our networks
    have none that learn. No official code is public. Deep Defense's columns, in a layout of (in, out), are output units
    too.

    Cost: the objective's, and per layer two products of matrices of the share's size; no pass.
    Reference: Moustapha Cisse, Piotr Bojanowski, Edouard Grave, Yann Dauphin and Nicolas Usunier, "Parseval networks:
    improving robustness to adversarial examples", ICML 2017, section 4.

    Raises:
        ValueError: a network without such layers that learn.
    """

    objective: Game = Plain()
    beta: Factor = 1e-4
    rows: FractionAbove0 = 0.3
    conv_scale: bool = False

    def setup(self, model: nn.Module, data: Dataset) -> "Parseval":
        if not weighted_layers(model):
            raise ValueError(
                f"Parseval pulls weights of linear and convolutional layers; {type(model).__name__} has none that learn"
            )
        return replace(self, objective=self.objective.setup(model, data))

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        chance = torch.Generator().manual_seed(batch.common)
        for update in self.objective.updates(nets, batch):
            yield update
            if isinstance(update, Step) and update.net == CLASSIFIER:
                self.pull(nets[CLASSIFIER], chance)

    @torch.no_grad()
    def pull(self, network: nn.Module, chance: torch.Generator) -> None:
        """One pull of every layer, in place, on rows that `chance` draws: for a loop of your own."""
        for layer in weighted_layers(network):
            weight = layer.weight
            scale = weight[0, 0].numel() ** 0.5 if self.conv_scale else 1.0
            for group in torch.arange(len(weight)).chunk(getattr(layer, "groups", 1)):
                count = max(1, round(self.rows * len(group)))
                which = group[torch.randperm(len(group), generator=chance)[:count]].to(weight.device)
                rows = weight[which]
                matrix = scale * rows.flatten(1)
                cube = torch.linalg.multi_dot((matrix, matrix.T, matrix))
                weight[which] = (((1 + self.beta) * matrix - self.beta * cube) / scale).reshape(rows.shape)


def weighted_layers(network: nn.Module) -> list[Layer]:
    """Those whose weight learns; a weight that several share, once."""
    found = {each.weight: each for each in network.modules() if isinstance(each, Layer) and each.weight.requires_grad}
    return list(found.values())

"""Searches that begin on the nearest linearised boundary succeed wherever they would without this start."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from affine import images, small_net
from steelman.attacks import ALMA, DDN, FMN
from steelman.attacks.core import Oracle
from steelman.attacks.minimal.searching import linearised_start
from steelman.losses import Goal
from steelman.norms import L0, L1, L2, Linf, Norm

SEARCHES = [
    *(FMN(norm=norm, steps=8) for norm in (Linf, L1, L0)),
    FMN(norm=L2, steps=4),
    *(ALMA(norm=norm, steps=4) for norm in (L2, L1)),
    DDN(steps=8, init_norm=0.05, gamma=0.15),
]
"""Short ones: the start takes half of their passes."""


@pytest.mark.parametrize("attack", SEARCHES, ids=str)
def test_a_start_that_is_too_far_away_costs_no_success(attack: FMN | ALMA | DDN) -> None:
    model, x = small_net(), images(60, seed=5)
    y = model(x).argmax(1)
    result, alone = attack.run(model, x, y), replace(attack, classes=0).run(model, x, y)
    assert not bool((alone.success & ~result.success).any())
    # Only a search that fails is repeated. The first has the start's 9 passes, half of the steps, and the polish.
    once = 9 + attack.steps // 2 + 1
    again = result.gradients > once
    assert bool(again.any())
    assert bool((result.success | again).all())
    assert set(result.gradients[~again].tolist()) <= {once}


@pytest.mark.parametrize("norm", [Linf, L2, L1, L0], ids=repr)
def test_a_boundary_out_of_the_boxs_reach_is_not_the_nearest(norm: Norm) -> None:
    """Class 1 would need the second pixel above 1, where it is; class 2 needs .4 more of the first."""
    x = torch.tensor([0.5, 1.0], dtype=torch.float64).reshape(1, 1, 1, 2)

    def model(z: Tensor) -> Tensor:
        first, second = z.flatten(1).unbind(1)
        return torch.stack([0 * first, 10 * (second - 1) - 1, first - 0.9], 1)

    with Oracle(model, Goal(torch.tensor([0]))) as oracle:
        moved, _, spent = linearised_start(oracle, x, oracle.goal, norm, (0.0, 1.0), 10)
    assert int(model(moved).argmax()) == 2
    assert spent == 2

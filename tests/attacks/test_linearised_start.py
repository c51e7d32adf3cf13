"""Searches that begin on the nearest linearised boundary succeed wherever they would without this start."""

from dataclasses import replace

import pytest

from affine import images, small_net
from steelman.attacks import ALMA, DDN, FMN
from steelman.norms import L0, L1, L2, Linf

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

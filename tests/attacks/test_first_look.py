"""Searches that begin with a look at the linearised boundaries find what they would find without it."""

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
"""Short ones: the look takes half of their passes."""


@pytest.mark.parametrize("attack", SEARCHES, ids=str)
def test_a_look_that_leads_too_far_costs_no_success(attack: FMN | ALMA | DDN) -> None:
    model, x = small_net(), images(60, seed=5)
    y = model(x).argmax(1)
    result, alone = attack.run(model, x, y), replace(attack, classes=0).run(model, x, y)
    assert not bool((alone.success & ~result.success).any())
    # Only a search that fails is repeated. The first has the look's 9 passes, half of the steps, and the polish.
    once = 9 + attack.steps // 2 + 1
    again = result.gradients > once
    assert bool(again.any())
    assert bool((result.success | again).all())
    assert set(result.gradients[~again].tolist()) <= {once}

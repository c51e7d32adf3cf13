"""Attacks on a model so confident that cross-entropy loses its gradient in rounding."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from digits_network import trained
from steelman.attacks import APGD, DDN, FGSM, FMN, MIM, PGD, Attack, AttackResult, CarliniWagner, DeepFool, MinimalFGSM
from steelman.data import Digits
from steelman.losses import Margin
from steelman.norms import L2

NET = trained()
TEST = Digits().load("test")
ATTACKS: list[Attack] = [
    FGSM(eps=0.15),
    PGD(eps=0.15, random_start=False),
    PGD(eps=1.0, norm=L2),
    MIM(eps=0.15),
    APGD(eps=0.15, steps=10),
    MinimalFGSM(),
    DeepFool(),
    FMN(steps=15),
    DDN(steps=15),
    CarliniWagner(steps=20, search_steps=2, c=2.0, step_size=0.15),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_a_thousand_times_the_logits_are_no_defence(attack: Attack) -> None:
    """Where p is 0 or 1, cross-entropy is the margin: the attack is as with that, and no weaker than before."""
    batch = next(TEST.batches([torch.arange(40)]))
    right = NET(batch.x).argmax(1) == batch.y
    x, y = batch.x[right], batch.y[right]

    def run(attack: Attack, scale: float) -> AttackResult:
        return attack.run(lambda x: scale * NET(x), x, y, generator=torch.arange(len(x)))

    plain, scaled = run(attack, 1.0), run(attack, 1000.0)
    assert plain.success.float().mean() > 0.3
    assert int(scaled.success.sum()) >= int(plain.success.sum()) - 1
    if hasattr(attack, "loss"):
        by_margin = run(replace(attack, loss=Margin()), 1.0)
        assert int((scaled.success != by_margin.success).sum()) <= 1
    if not hasattr(attack, "eps"):
        assert scaled.l2.median() < 1.1 * plain.l2.median()


def test_they_would_be_by_plain_cross_entropy() -> None:
    """What other code sees: so the test above can fail."""
    batch = next(TEST.batches([torch.arange(40)]))
    left = []
    for scale in (1.0, 1000.0):
        x = batch.x.clone()
        for _ in range(10):
            x.requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(scale * NET(x), batch.y), x)
            x = (x.detach() + 0.0375 * slope.sign()).clamp(batch.x - 0.15, batch.x + 0.15).clamp(0, 1)
        left.append(int((NET(x).argmax(1) == batch.y).sum()))
    assert left[1] > left[0] + 10

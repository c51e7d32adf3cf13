"""Default lengths are in units of the box: in a box 256 times as wide, every attack finds the same images."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from affine import images, small_net
from every_attack import SETTINGS, Case
from steelman import PGD, AutoAttack, WorstOf
from steelman.adversaries import Adversary
from steelman.attacks import Attack, Latent, Surrogate
from steelman.norms import L0
from steelman.types import Share

OF_ONE_NETWORK = [case for case in SETTINGS if not isinstance(case.attack, Adversary | Latent | Surrogate)]
LENGTHS = ("eps", "eps_max", "radius", "theta", "init_norm", "xi", "normal_start", "grid")
OF_STEPS = ("PGD", "MIM", "FMN", "SigmaZero", "ALMA")
"""Attacks whose step_size is a length; that of others is in tanh space or of Adam in it."""


def stretched(attack: Attack, by: float) -> Attack:
    """The attack for images that are `by` times as large: lengths that were given grow, defaults do by themselves."""
    settings: dict[str, Any] = {"box": (0.0, by)}
    for item in fields(attack):
        value: Any = getattr(attack, item.name)
        length = item.name in LENGTHS or (item.name == "step_size" and type(attack).__name__ in OF_STEPS)
        length = length or (item.name == "sigma" and type(attack).__name__ == "SigmaNoise")  # SigmaZero's is squared
        length = length and not (item.name == "eps" and getattr(attack, "norm", None) is L0)
        if length and value is not None and not isinstance(value, Share):
            settings[item.name] = value * by
        elif isinstance(value, Attack):
            settings[item.name] = stretched(value, by)
        elif isinstance(value, tuple) and value and isinstance(value[0], Attack):
            settings[item.name] = tuple(stretched(each, by) for each in value)
    return replace(attack, **settings)


@pytest.mark.parametrize("case", OF_ONE_NETWORK, ids=repr)
def test_another_unit_changes_nothing(case: Case) -> None:
    net, x, by = small_net(torch.float64), images(8), 256.0  # a power of 2 rounds nothing
    y = net(x).argmax(1)
    target, seeds = case.target(y), torch.arange(8)
    one = case.attack.run(net, x, y, target=target, generator=seeds)
    other = stretched(case.attack, by).run(lambda z: net(z / by), x * by, y, target=target, generator=seeds)
    assert torch.equal(other.success, one.success)
    torch.testing.assert_close(other.x_adv / by, one.x_adv, rtol=1e-3, atol=1e-3)


def test_defaults_are_in_units_of_the_box() -> None:
    assert PGD().eps == 8 / 255
    assert PGD(box=(0.0, 255.0)).eps == 8
    assert PGD(box=None).eps == 8 / 255
    assert replace(PGD(), box=(-1.0, 1.0)).eps == 16 / 255
    assert replace(PGD(eps=0.1), box=(-1.0, 1.0)).eps == 0.1
    first: Any = AutoAttack(box=(0.0, 255.0)).attacks[0]
    assert first.eps == 8 / 255  # they get the box of the whole when they run
    net, x = small_net(torch.float64), images(12)
    y = net(x).argmax(1)
    one = WorstOf((PGD(), AutoAttack(steps=3, queries=5))).run(net, x, y, generator=torch.arange(12))
    wide = WorstOf((PGD(), AutoAttack(steps=3, queries=5)), box=(0.0, 256.0))
    other = wide.run(lambda z: net(z / 256), x * 256, y, generator=torch.arange(12))
    torch.testing.assert_close(other.linf / 256, one.linf, rtol=1e-6, atol=1e-9)

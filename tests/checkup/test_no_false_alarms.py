"""Honest models get no sign and no warning, and masked ones do: the models of `zoo`, with the battery quick."""

import pytest
import torch
from torch import nn

from steelman.checkup import checkup
from steelman.data import Digits
from steelman.data.sample import sampled
from steelman.evaluation import evaluate, named_battery
from steelman.measures import signs
from steelman.norms import NORMS
from zoo import ENTRIES

TEST = sampled(Digits().load("test"), 100)
HONEST = [name for name, entry in ENTRIES.items() if entry.kind == "honest" and name != "probabilities"]
HIDDEN = ["bit_depth", "kwta", "wrong_sign", "sinusoid", "sigmoid_chain"]


def alarms(name: str) -> tuple[set[str], set[str]]:
    """The warnings of the check-up, and the signs of the table."""
    entry = ENTRIES[name]
    model, norm = entry.build(), NORMS[entry.norm]
    assert isinstance(model, nn.Module)
    found = checkup(model, TEST, norm=norm, eps=entry.eps)
    battery = named_battery("quick", norm=norm, eps=entry.eps).within(found.access)
    table = evaluate(model, TEST, battery.attacks, survivors_only=battery.survivors_only, progress=False)
    return {each.name for each in found.warnings}, {each.name for each in signs(table) if each.present}


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_raise_no_alarm(name: str) -> None:
    torch.manual_seed(0)
    assert alarms(name) == (set(), set())


@pytest.mark.filterwarnings("ignore:.*gradient")
@pytest.mark.parametrize("name", HIDDEN)
def test_masked_models_raise_two(name: str) -> None:
    """The check-up warns before, and the table has a sign after the attack."""
    warnings, found = alarms(name)
    assert warnings
    assert found

"""What `steelman evaluate` says of small models whose robustness is known; `make soak` asks about all of them."""

from functools import cache

import pytest
import torch

from zoo import ENTRIES, images
from zoo.judging import Judged, judged
from zoo.truth import EXACT, classes, measured

MASKED = ("one_hot", "vanishing")
HONEST = ("mlp", "pgd_mlp", "linear", "probabilities")
BLIND = ("bits",)
COUNT = 40

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@cache
def answer(name: str) -> Judged:
    return judged(ENTRIES[name], images=COUNT)


@pytest.mark.parametrize("name", [*MASKED, *HONEST, *BLIND])
def test_verdict(name: str):
    found = answer(name)
    assert found.sound, str(found)
    assert found.number <= found.before
    if name in EXACT:  # an attack can find no more than there is
        assert found.number >= found.truth, str(found)


def test_numbers():
    found = [answer(name) for name in (*MASKED, *HONEST, *BLIND)]
    far = [str(each) for each in found if not each.near]
    assert len(far) <= len(found) / 6, far


def test_the_battery_alone_is_deceived():
    """Otherwise nothing here would test the adaptive attacks."""
    for name in MASKED:
        assert answer(name).before > answer(name).truth + 0.1
        assert answer(name).word == "broken by an adaptive attack"


@pytest.mark.parametrize("name", ["linear", "bits", "stumps", "one_hot", "vanishing"])
def test_truth(name: str):
    """What is stored is found again; an attack with fewer starts finds hardly less."""
    entry = ENTRIES[name]
    stored = entry.right(COUNT)
    again = measured(entry, COUNT) if name in EXACT else measured(entry, COUNT, starts=2, steps=20, search=100)
    if name in EXACT:
        assert again == stored
    else:
        assert sum(stored) - 1 <= sum(again) <= sum(stored) + 4


@pytest.mark.parametrize("name", ["linear", "bits", "stumps"])
def test_proofs_against_random_corners(name: str):
    """No point of the ball breaks an image that is proved robust, and some break those that are not."""
    entry = ENTRIES[name]
    x, y = images(COUNT)
    model, safe = entry.build(), torch.tensor(entry.right(COUNT)).bool()
    torch.manual_seed(0)
    broken = torch.zeros(COUNT, dtype=torch.bool)
    for _ in range(200):
        corner = entry.eps * torch.randint(0, 2, x.shape).mul(2).sub(1)
        broken |= classes(model, (x + corner).clamp(0, 1)) != y
    assert not (broken & safe).any()
    assert broken.any()

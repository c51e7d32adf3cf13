"""The adaptive attacks on one model: which they are, what they assume, and what they find."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from digits_network import trained
from steelman import evaluate
from steelman.adaptive import Adaptation, adaptation
from steelman.attacks import APGD, EOT, PGD, WorstOf
from steelman.data import Digits
from steelman.identity import digest
from steelman.losses import DLR, Margin
from steelman.norms import L0, L1, L2, Linf
from steelman.table.records import record_of

NET, EPS = trained(), 0.15
(BATCH,) = Digits().load("test").batches([torch.arange(60)])
with torch.no_grad():
    RIGHT = NET(BATCH.x).argmax(1) == BATCH.y
X, Y = BATCH.x[RIGHT][:30], BATCH.y[RIGHT][:30]
KINDS = ("PGD", "PGD with large steps", "PGD on mean gradients", "Square", "transfer from a pupil", "HopSkipJump")


class Headed(nn.Module):
    def __init__(self, head: Any, net: nn.Module = NET) -> None:
        super().__init__()
        self.net, self.head = net, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x))


def one_hot(logits: Tensor) -> Tensor:
    return 5.0 * nn.functional.one_hot(logits.argmax(1), 10)


def classes(logits: Tensor) -> Tensor:
    return logits.detach().argmax(1)


class Noisy(nn.Module):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return NET(x + self.sigma * torch.randn_like(x))


def made(model: Any, norm: Any = Linf, eps: float = EPS, **options: Any) -> Adaptation:
    return adaptation(model, X[:10], Y[:10], norm, eps, **{"examples": 40, **options})  # pyright: ignore


def kinds(found: Adaptation) -> list[str]:
    return [name.removeprefix("Adaptive ").removesuffix(" Linf 0.15") for name in found.attacks]


def left(model: nn.Module, count: int, *parts: str) -> int:
    """How many of the first images some of the attacks leave, by the table."""
    x, y = X[:count], Y[:count]
    found = adaptation(model, x, y, Linf, EPS, examples=1000)
    some = {name: attack for name, attack in found.attacks.items() if name.split(" Linf")[0][9:] in parts}
    assert len(some) == len(parts)
    table = evaluate(model, (x, y), some, survivors_only=True, progress=False)
    return count - len(set(table["image"][table["prediction"] != table["label"]]))


def strong(net: nn.Module, count: int) -> int:
    """How many of the first images remain right under the best attacks on the network itself."""
    margin, targets = APGD(EPS, loss=Margin(), restarts=2), APGD(EPS, loss=DLR(), targets=9)
    result = WorstOf((margin, targets)).run(net, X[:count], Y[:count], generator=torch.arange(count))
    return count - int(result.success.sum())


def test_a_plain_network_is_attacked_as_it_is_and_a_masked_one_is_adapted() -> None:
    assert kinds(made(NET)) == list(KINDS[1:])
    assert "Adaptive Square Linf 8/255" in made(NET, eps=8 / 255).attacks
    masked = made(Headed(one_hot))
    assert kinds(masked) == [KINDS[0], *KINDS[2:]], "it has no gradient of its own"
    assert any("net" in each for each in masked.assumptions)
    assert len(set(masked.assumptions)) == len(masked.assumptions) >= len(masked.attacks)


@pytest.mark.parametrize(("access", "kept"), [("scores", KINDS[3:]), ("decisions", KINDS[4:])])
def test_access_is_what_may_be_asked(access: Any, kept: tuple[str, ...]) -> None:
    found = made(NET, access=access)
    assert kinds(found) == list(kept)
    order = ("gradients", "scores", "decisions")
    assert all(order.index(each.access) >= order.index(access) for each in found.attacks.values())


def test_classes_alone_and_functions_are_attacked_by_what_is_left() -> None:
    assert kinds(made(lambda x: NET(x).detach().argmax(1))) == list(KINDS[4:])


def test_other_norms_and_shapes_have_what_exists_there() -> None:
    assert [each.removesuffix(" L2 0.5") for each in made(NET, L2, 0.5).attacks] == [f"Adaptive {k}" for k in KINDS[1:]]
    found = made(NET, L1, 2.0)
    assert [each.removesuffix(" L1 2") for each in found.attacks] == [f"Adaptive {KINDS[k]}" for k in (1, 2, 4)]
    flat = nn.Linear(5, 3)
    x = torch.rand(6, 5)
    table = adaptation(flat, x, flat(x).argmax(1), Linf, 0.1, examples=12).attacks
    assert not any("Square" in name for name in table)
    assert any("HopSkipJump" in name for name in table)


def test_randomness_asks_for_means_of_more_draws_the_more_it_spreads() -> None:
    draws = {}
    for sigma in (0.02, 0.3):
        found = made(Noisy(sigma))
        inside: list[Any] = [each.parts[0] for each in found.attacks.values() if each.access == "gradients"]
        assert inside
        assert all(isinstance(each, EOT) for each in inside)
        draws[sigma] = inside[0].samples
        assert "draws=5" in found.code
    assert 4 <= draws[0.02] < draws[0.3] <= 40
    means = [name for name, attack in made(NET).attacks.items() if any(isinstance(part, EOT) for part in attack.parts)]
    assert means == ["Adaptive PGD on mean gradients Linf 0.15"], "of points nearby, and of no draws"


def test_surrogates_are_tried_by_name() -> None:
    twin = Headed(lambda z: z)
    by_name = made(NET, surrogates={"a twin": twin})
    assert "Adaptive transfer from a twin Linf 0.15" in by_name.attacks
    assert "surrogates['a twin']" in by_name.code
    assert "Adaptive transfer from Headed 1 Linf 0.15" in made(NET, surrogates=[twin]).attacks


def test_the_code_repeats_it() -> None:
    model, eps = Headed(one_hot), 80 / 255
    found = made(model, eps=eps, surrogates={"twin": NET}, seed=3)
    assert "Adaptive PGD Linf 0.3137" in found.attacks
    names: dict[str, Any] = {"model": model, "x": X[:10], "y": Y[:10], "surrogates": {"twin": NET}}
    exec(found.code, names)
    assert list(names["attacks"]) == list(found.attacks)
    for name, attack in found.attacks.items():
        assert digest(names["attacks"][name]) == digest(attack), name
    assert names["table"].attacks


def test_the_same_seed_makes_the_same_attacks_and_they_can_be_sent() -> None:
    model = Headed(one_hot)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (made(model, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    for name, attack in first.attacks.items():
        assert digest(attack) == digest(again.attacks[name]) == digest(pickle.loads(pickle.dumps(attack)))
        record = record_of(name, attack)
        assert record.settings is not None
        assert record.settings["assumptions"]
    pupil = "Adaptive transfer from a pupil Linf 0.15"
    assert digest(first.attacks[pupil]) != digest(other.attacks[pupil])


def test_a_masked_network_falls_to_the_truth() -> None:
    truth = strong(NET, 30)
    assert truth <= 8
    assert left(Headed(one_hot), 30, "PGD") <= truth + 1
    assert left(Headed(classes), 30, "transfer from a pupil", "HopSkipJump") <= truth + 4


def test_a_robust_network_stays_where_it_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    (train,) = Digits().load("train").batches([torch.arange(800)])
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        attacked = PGD(EPS, steps=5)(net, train.x, train.y)
        nn.functional.cross_entropy(net(attacked), train.y).backward()
        optimiser.step()
    truth = strong(net, 12)
    assert truth >= 4
    assert abs(left(net, 12, "PGD with large steps", "Square", "transfer from a pupil") - truth) <= 1


def test_what_cannot_be_is_refused() -> None:
    for norm, eps in ((L0, 3.0), (Linf, 0.0)):
        with pytest.raises(ValueError, match="need a radius above 0"):
            made(NET, norm, eps)
    with pytest.raises(ValueError, match="did you mean"):
        made(NET, eps=8.0)

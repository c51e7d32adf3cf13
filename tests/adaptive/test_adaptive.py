"""Attacks crafted on one model and judged on another."""

import pickle

import pytest
import torch
from torch import Tensor, nn

from affine import Another, images, small_net
from steelman import evaluate
from steelman.adaptive import Adaptive, Nearby
from steelman.attacks import DDN, EOT, PGD, HopSkipJump, Surrogate, UniversalPerturbation, Within
from steelman.identity import digest
from steelman.losses import Margin
from steelman.norms import L2, Linf
from steelman.table.records import record_of

X = images(12)
with torch.no_grad():
    Y = small_net()(X).argmax(1)


class Asked(nn.Module):
    """Counts calls and images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.images = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.net(x)


class OneHot(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return 7.0 * nn.functional.one_hot(self.net(x).argmax(1), 10).float()


class Window(nn.Module):
    """Wrong only where the first pixel has moved by .05 to .1, and never where a whole step of the attack ends."""

    def forward(self, x: Tensor) -> Tensor:
        moved = (x - X[0]).flatten(1)[:, 0]
        wrong = (moved > 0.05) & (moved < 0.1)
        return torch.stack([~wrong, wrong], 1).float() * 3


class Ramp(nn.Module):
    """Of two classes, the more wrong the further the first pixel has moved."""

    def forward(self, x: Tensor) -> Tensor:
        moved = (x - X[0]).flatten(1)[:, 0]
        return torch.stack([torch.full_like(moved, 0.02), moved], 1)


class Noise(nn.Module):
    """Right with a probability that falls as the first pixel moves, to 0 at .4."""

    random = True

    def forward(self, x: Tensor) -> Tensor:
        moved = (x - X[0]).flatten(1)[:, 0]
        wrong = torch.rand(len(x)) < 2.5 * moved
        return torch.stack([~wrong, wrong], 1).float() * 3


def test_what_is_crafted_on_another_model_is_judged_on_this_one() -> None:
    masked = OneHot(small_net())
    attack = PGD(0.3, steps=10, loss=Margin())
    with pytest.raises(ValueError, match="no gradient"):
        attack(masked, X, Y)
    through = Adaptive(attack, small_net()).run(masked, X, Y, generator=torch.Generator().manual_seed(0))
    own = attack.run(small_net(), X, Y, generator=torch.Generator().manual_seed(0))
    assert through.success.sum() == own.success.sum() > 6
    assert bool((Linf.size(through.x_adv - X) <= 0.3).all())


def test_a_success_on_the_way_is_kept_though_the_attack_leaves_it_behind() -> None:
    x, y = X[:1], torch.zeros(1, dtype=torch.int64)
    attack = PGD(0.3, steps=10, step_size=0.03, random_start=False, loss=Margin())
    assert not Surrogate(attack, Ramp()).run(Window(), x, y).success.any()
    assert Adaptive(attack, Ramp()).run(Window(), x, y).success.all()


def test_an_image_is_done_with_its_first_success() -> None:
    asked = Asked(small_net())
    attack = PGD(0.3, steps=10, loss=Margin())
    result = Adaptive(attack, asked, attempts=5).run(small_net(), X, Y, generator=torch.Generator().manual_seed(0))
    left = int((~result.success).sum())
    assert 0 < asked.images <= 10 * (len(X) + 4 * left)


def test_passes_on_the_model_itself_count_and_those_on_another_do_not() -> None:
    attack = PGD(0.01, steps=3, random_start=False)
    seeds = torch.arange(12)
    own = Adaptive(attack).run(small_net(), X, Y, generator=seeds)
    other = Adaptive(attack, small_net()).run(small_net(), X, Y, generator=seeds)
    assert torch.equal(own.x_adv, other.x_adv)
    assert own.gradients.tolist() == [3] * 12
    assert other.gradients.tolist() == [0] * 12
    tried = other.forwards
    assert torch.equal(own.forwards, tried + 3)
    assert bool((tried >= 4).all())


def test_a_random_model_is_judged_by_draws_and_the_worst_version_is_kept() -> None:
    x, y = X[:1], torch.zeros(1, dtype=torch.int64)
    attack = PGD(0.45, steps=15, step_size=0.03, random_start=False, loss=Margin())
    result = Adaptive(attack, Ramp()).run(Noise(), x, y, generator=torch.arange(1))
    assert float((result.x_adv - x).flatten(1)[:, 0]) > 0.3
    assert float(result.right) <= 0.3


def test_a_minimal_attack_counts_within_the_radius_alone() -> None:
    attack = Adaptive(Within(HopSkipJump(Linf, steps=3, evaluations=20), 0.2))
    result = attack.run(small_net(), X, Y, generator=torch.arange(12))
    assert bool((result.linf <= 0.2).all())
    assert result.success.any()
    assert (attack.norm, attack.eps, attack.access) == (Linf, 0.2, "decisions")


@pytest.mark.filterwarnings("ignore:the model's gradient is zero")
def test_gradients_that_are_nan_or_missing_do_not_end_the_search() -> None:
    class Broken(nn.Module):
        def __init__(self, cut: bool) -> None:
            super().__init__()
            self.net, self.cut = small_net(), cut

        def forward(self, x: Tensor) -> Tensor:
            logits = self.net(x)
            return logits.detach() if self.cut else logits + 0 * torch.sqrt(0 * x.flatten(1).sum(1, keepdim=True))

    for cut in (False, True):
        with pytest.raises(ValueError, match="gradient"):
            PGD(0.3)(Broken(cut), X, Y)
        assert Adaptive(PGD(0.9)).run(Broken(cut), X, Y, generator=torch.arange(12)).success.any(), "random starts"


def test_the_same_seed_gives_the_same_bits_alone_or_in_a_batch() -> None:
    attack, seeds = Adaptive(PGD(0.2, steps=5), Another(0), attempts=2), torch.arange(12)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    whole = attack(small_net(), X, Y, generator=seeds)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(whole, attack(small_net(), X, Y, generator=seeds))
    torch.testing.assert_close(whole[4:5], attack(small_net(), X[4:5], Y[4:5], generator=seeds[4:5]))


def test_nearby_is_the_model_under_noise_of_this_size() -> None:
    model = Nearby(nn.Flatten(), 0.25)
    torch.manual_seed(0)
    noise = torch.stack([model(X) - X.flatten(1) for _ in range(100)])
    assert float(noise.std()) == pytest.approx(0.25, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    with pytest.raises(ValueError, match="sigma > 0"):
        Nearby(small_net(), 0.0)


def test_the_mean_of_nearby_gradients_climbs_where_the_slope_is_shattered() -> None:
    class Shattered(nn.Module):
        """The gradient of the second part is a hundred times as long, and points anywhere."""

        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, x: Tensor) -> Tensor:
            waves = 3e-3 * torch.sin(1e4 * x).flatten(1).sum(1)
            return self.net(x) + waves[:, None] * torch.linspace(-1, 1, 10)

    model, seeds = Shattered(), torch.arange(12)
    with torch.no_grad():
        labels = model(X).argmax(1)
    attack = PGD(0.15, steps=10, loss=Margin())
    plain = Adaptive(attack).run(model, X, labels, generator=seeds).success.sum()
    mean = Adaptive(EOT(attack, 30), Nearby(model, 0.07)).run(model, X, labels, generator=seeds).success.sum()
    assert mean > plain + 2


def test_it_is_stored_sent_and_resumed(tmp_path) -> None:
    attack = Adaptive(PGD(0.2, steps=3, norm=Linf), small_net(), ("logits are read before the head",))
    record = record_of("Adaptive PGD", attack)
    assert record.kind.endswith(":Adaptive")
    assert record.settings is not None
    assert record.settings["assumptions"] == ["logits are read before the head"]
    assert (record.norm, record.eps, record.knowledge) == ("Linf", 0.2, "black")
    assert (
        record_of("", Adaptive(PGD(0.2))).knowledge
        == record_of("", Adaptive(PGD(0.2), Nearby(small_net(), 0.1))).knowledge
    )
    assert record_of("", Adaptive(PGD(0.2))).knowledge == "white"
    assert digest(pickle.loads(pickle.dumps(attack))) == digest(attack)
    first = evaluate(small_net(), (X, Y), {"a": attack}, folder=tmp_path, progress=False)
    again = evaluate(small_net(), (X, Y), {"a": attack}, folder=tmp_path, progress=False)
    assert first.table.equals(again.table)
    fresh = evaluate(small_net(), (X, Y), {"a": attack}, progress=False)
    assert fresh["prediction"].tolist() == first["prediction"].tolist()


def test_a_time_limit_keeps_what_was_found() -> None:
    attack = Adaptive(PGD(0.3, steps=100_000, step_size=0.05, loss=Margin()))
    with pytest.warns(UserWarning, match="time limit"):
        result = attack.run(small_net(), X, Y, generator=torch.arange(12), time_limit=1.0)
    assert result.success.any()
    assert bool((result.linf <= 0.3).all())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a radius"):
        Adaptive(DDN())
    with pytest.raises(ValueError, match="crafts on a module"):
        Adaptive(PGD(), "model")
    with pytest.raises(ValueError, match="one answer for all images"):
        Adaptive(UniversalPerturbation(eps=0.1))
    assert Adaptive(PGD(0.5, norm=L2)).norm is L2

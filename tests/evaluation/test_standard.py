"""The battery `standard`: its cascade, what follows on it, and where `thorough` takes its place."""

from pathlib import Path

import pytest
from torch import nn

from steelman import config
from steelman.attacks import FGSM, PGD, AutoAttack, CascadeAttack, Square
from steelman.evaluation.battery import Battery, default_radius, load_battery, named_battery
from steelman.norms import L0, L1, L2, Linf, Norm


@pytest.mark.parametrize("norm", [Linf, L2], ids=repr)
def test_standard_is_the_cascade_before_a_short_square_and_has_thorough_for_a_suspicion(norm: Norm) -> None:
    standard, thorough = (named_battery(name, norm=norm, data="MNIST") for name in ("standard", "thorough"))
    eps = default_radius("MNIST", norm)
    minimal, cascade, single, square = standard.attacks.values()
    assert minimal == next(iter(thorough.attacks.values()))
    assert cascade == CascadeAttack(eps, norm)
    assert single == FGSM(eps, norm)
    assert square == Square(eps, norm, queries=200, rescale=False)
    assert list(standard.suspicion.items()) == list(thorough.attacks.items())
    ((name, whole),) = standard.audit.items()
    assert thorough.attacks[name] == whole == AutoAttack(eps, norm).attacks[-1]
    assert standard.survivors_only
    assert config.read(Battery, config.write(standard)) == standard
    assert {"audit", "suspicion"}.isdisjoint(config.write(thorough)), "files of before are found again"


def test_in_other_norms_standard_is_thorough() -> None:
    assert named_battery("standard", norm=L1, eps=1.0) == named_battery("thorough", norm=L1, eps=1.0)
    assert named_battery("standard", norm=L0) == named_battery("thorough", norm=L0)


class Rejects(nn.Module):
    reject_class = 10


class Draws(nn.Module):
    random = True


def test_where_thresholds_are_not_known_to_hold_thorough_is_run_and_that_is_said() -> None:
    standard, thorough = (named_battery(name, data="MNIST") for name in ("standard", "thorough"))
    for model, why in ((Rejects(), "a model may reject images"), (Draws(), "a model answers at random")):
        with pytest.warns(UserWarning, match=rf"Cascade Linf 0\.3 are not known to hold where {why}"):
            found = standard.against(model)
        assert found == thorough.against(model)
        assert list(found.attacks) == list(thorough.attacks)
        assert found.against(model).attacks.keys() == found.attacks.keys()
    assert standard.against(nn.Identity()) is standard
    with pytest.warns(UserWarning, match="more than 21 classes"):
        assert standard.taking((1, 28, 28), 22) == thorough
    assert standard.taking((1, 28, 28), 21) is standard
    with pytest.warns(UserWarning, match="height") as said:
        vectors = standard.taking((24,), 3)
    first, second = (str(each.message) for each in said)
    assert "images have no height and width" in first
    assert second.startswith("left out, since they cannot be run on these images: Square Linf 0.3")
    assert "Square" not in " ".join(vectors.attacks)
    for access in ("scores", "decisions"):
        assert standard.within(access) == thorough.within(access)


def test_ones_own_attacks_stay_beside_those_of_a_suspicion(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        'battery = "standard"\neps = 0.2\n[attacks.mine]\nkind = "PGD"\neps = 0.2\n'
        '[audit."Square Linf 0.2"]\nqueries = 300\n[suspicion."Square Linf 0.2"]\nqueries = 300\n'
    )
    battery = load_battery(tmp_path / "own.toml")
    assert battery.attacks["mine"] == PGD(eps=0.2)
    assert battery.audit == {"Square Linf 0.2": Square(0.2, queries=300, rescale=False)}
    with pytest.warns(UserWarning, match="reject"):
        found = battery.against(Rejects())
    thorough = named_battery("thorough", eps=0.2)
    assert list(found.attacks) == [*thorough.attacks, "mine"]
    with pytest.raises(ValueError, match="two attacks are called a: give the one in audit another name"):
        Battery({"a": FGSM()}, audit={"a": FGSM()})
    with pytest.raises(ValueError, match="two attacks are called a: give the one in suspicion another name"):
        Battery({"a": FGSM()}, suspicion={"a": PGD()})

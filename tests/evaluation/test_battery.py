"""Named batteries: what is in them, in which order, at which radius, and what is left of them on a black box."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from torch import Tensor, nn

from steelman import config
from steelman.adversaries import PGN
from steelman.attacks import (
    APGD,
    FAB,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    DeepFool,
    HopSkipJump,
    MinimalFGSM,
    Square,
    UniformNoise,
    Within,
)
from steelman.data import Digits
from steelman.evaluation import evaluate
from steelman.evaluation.asking import asked_by
from steelman.evaluation.battery import BUILT, Battery, battery_names, default_radius, load_battery, named_battery
from steelman.evaluation.probes import PASS, LossSensitivity, TrainingSetDistance
from steelman.experiments.recipe import load_recipe, to_toml
from steelman.losses import Margin
from steelman.measures import robust_accuracy
from steelman.measures.masking import signs
from steelman.norms import L0, L1, L2, Linf, Norm

PAPERS = [name for name in battery_names() if name.startswith("paper:")]
DATA = ("MNIST", "CIFAR10", "CIFAR100")
E8 = 8 / 255


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that is right on most digits, and images of which the first has another label."""
    torch.manual_seed(0)
    data = Digits().load("train")
    batch = next(data.in_order(600))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.y).backward()
        optimiser.step()
    test = next(Digits().load("test").in_order(16))
    y = test.y.clone()
    y[0] = (y[0] + 1) % 10
    return model.eval(), test.x, y


def test_the_names_are_those_that_are_asked_for() -> None:
    assert battery_names()[:4] == ("quick", "standard", "thorough", "signs")
    seeds = {"deep-defense", "efficient-defenses", "l2l-da", "pgn"}
    lecture = {
        "madry",
        "mma",
        "mma-l2",
        "trades",
        "yopo",
        "bilateral",
        "carlini-wagner",
        "tisode",
        "obfuscated-gradients",
    }
    assert {name.removeprefix("paper:") for name in PAPERS} == seeds | lecture


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_battery_reads_writes_and_builds(name: str, tmp_path: Path) -> None:
    found = 0
    for data in DATA:
        try:
            battery = named_battery(name, data=data)
        except ValueError as error:
            assert f"mean nothing for {data}" in str(error)  # noqa: PT017
            continue
        found += 1
        assert not battery.survivors_only
        assert battery.attacks
        (tmp_path / "again.toml").write_text(tomli_w.dumps(config.write(battery)))
        assert load_battery(tmp_path / "again.toml") == battery
    assert found


def _pgd(eps: float, steps: int, step_size: float, **more: Any) -> dict[str, Any]:
    return {"eps": eps, "steps": steps, "step_size": step_size, **more}


PRINTED: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("deep-defense", "MNIST"): {
        "PGD .1": {"eps": 0.1, "random_start": True},
        "Carlini-Wagner L2": {"steps": 1000, "search_steps": 5, "step_size": 0.005, "c": 0.01},
    },
    ("deep-defense", "CIFAR10"): {"PGD .01": {"eps": 0.01}},
    ("efficient-defenses", "MNIST"): {
        "FGSM .1": {"eps": 0.1},
        "Random FGSM .1": {"eps": 0.1, "alpha": 0.05},
        "DeepFool L2": {"steps": 100},
        "JSMA": {"theta": 0.1, "gamma": 1.0},
        "VAT 2.1": {"eps": 2.1, "iterations": 5},
        "Carlini-Wagner L2, confidence 2.3": {"confidence": 2.3, "steps": 1000, "search_steps": 5, "c": 0.01},
    },
    ("l2l-da", "MNIST"): {
        "FGSM .3": {"eps": 0.3},
        "PGD-10 .3": _pgd(0.3, 10, 0.3 / 4, random_start=True),
        "PGD-100 .3": _pgd(0.3, 100, 0.3 / 12),
        "L2L-DA .3, best of 10": {"eps": 0.3, "steps": 10, "samples": 10},
    },
    ("l2l-da", "CIFAR10"): {"PGD-10 8": _pgd(E8, 10, E8 / 4), "PGD-100 8": _pgd(E8, 100, E8 / 12)},
    ("pgn", "CIFAR10"): {
        "FGM L2 .5": {"eps": 0.5, "norm": L2},
        "MIM L2 .5": {"eps": 0.5, "norm": L2, "steps": 100, "step_size": 0.06},
        "DeepFool": {"steps": 100},
        "Carlini-Wagner, cold": {"steps": 100, "search_steps": 5, "step_size": 0.005, "c": 0.01, "warm_start": False},
    },
    ("madry", "MNIST"): {
        "PGD-40 .3": _pgd(0.3, 40, 0.01, restarts=1),
        "PGD-100 .3, 20 restarts": _pgd(0.3, 100, 0.01, restarts=20),
    },
    ("madry", "CIFAR10"): {"PGD-7 8": _pgd(E8, 7, 2 / 255), "CW-30 8": _pgd(E8, 30, 2 / 255)},
    ("mma", "MNIST"): {"PGD .4": _pgd(0.4, 100, 0.4 / 40, restarts=5)},
    ("mma", "CIFAR10"): {"PGD 32/255, CW": _pgd(32 / 255, 100, E8, restarts=5)},
    ("mma-l2", "MNIST"): {"PGD L2 3": _pgd(3.0, 100, 0.75, norm=L2, restarts=5)},
    ("trades", "CIFAR10"): {"PGD-20 .031": _pgd(0.031, 20, 0.003)},
    ("yopo", "CIFAR10"): {"PGD-20 8": _pgd(E8, 20, 2 / 255)},
    ("bilateral", "CIFAR10"): {"PGD-100 8": _pgd(E8, 100, 2 / 255), "CW-200 8": _pgd(E8, 200, 2 / 255)},
    ("carlini-wagner", "MNIST"): {"Carlini-Wagner L2": {"steps": 10_000, "search_steps": 9, "step_size": 0.01}},
}
"""Settings as the papers and their code have them."""


@pytest.mark.parametrize(("paper", "data"), PRINTED, ids=" ".join)
def test_a_papers_battery_has_its_settings(paper: str, data: str) -> None:
    attacks = named_battery(f"paper:{paper}", data=data).attacks
    for name, settings in PRINTED[paper, data].items():
        for key, value in settings.items():
            got = getattr(attacks[name], key)
            assert got == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), (name, key)


def test_papers_that_measure_more_have_their_probes() -> None:
    efficient = named_battery("paper:efficient-defenses", data="MNIST")
    assert efficient.probes == (LossSensitivity(), TrainingSetDistance())
    assert efficient.attacks["Minimal FGSM"] == MinimalFGSM(grid=0.05, reference="prediction")
    deep = named_battery("paper:deep-defense", data="MNIST")
    assert deep.deep_defense
    assert deep.probes == (PASS(),)
    assert isinstance(named_battery("paper:pgn", data="CIFAR100").attacks["PGN"], PGN)


def test_radii_are_those_of_their_sources() -> None:
    assert [default_radius("MNIST", norm) for norm in (Linf, L2, L1)] == [0.3, 2.0, 10.0]
    assert [default_radius("CIFAR10", norm) for norm in (Linf, L2, L1)] == [8 / 255, 0.5, 12.0]
    assert [attack.eps for attack in _bounded(named_battery("quick", data="CIFAR10"))] == [8 / 255] * 3
    assert [attack.eps for attack in _bounded(named_battery("quick", norm=L1, eps=4.0, data="CIFAR10"))] == [4.0] * 2


def _bounded(battery: Battery) -> list[Any]:
    return [attack for attack in battery.attacks.values() if getattr(attack, "eps", None) is not None]


@pytest.mark.parametrize("norm", [Linf, L2, L1], ids=repr)
def test_thorough_is_the_ensemble_behind_a_minimal_attack(norm: Norm) -> None:
    battery = named_battery("thorough", norm=norm, data="MNIST")
    first, *others, noise = battery.attacks.values()
    single = FGSM(default_radius("MNIST", norm), norm)
    assert noise == UniformNoise(single.eps, norm, samples=100)
    assert others.index(single) == len(others) - 1 - (
        norm is not L1
    )  # before Square, which is to find what it has left
    others.remove(single)
    assert not hasattr(first, "eps")
    assert getattr(first, "norm", None) is norm
    ensemble = AutoAttack(default_radius("MNIST", norm), norm).attacks
    assert [attack for attack in others if attack in ensemble] == list(ensemble)
    assert [attack.loss for attack in others if attack not in ensemble] == [Margin()]
    assert battery.survivors_only
    assert config.read(Battery, config.write(battery)) == battery


def _passes(attack: Any) -> int:
    """The most gradient and other passes that an attack may cost an image."""
    match attack:
        case Within():
            return _passes(attack.attack)
        case FGSM():
            return 1
        case Square():
            return attack.queries
        case FAB():
            return attack.steps * (attack.targets or 1) * 3
        case APGD():
            return attack.steps * attack.restarts * max(attack.targets, 1) * 2
    return attack.steps * 2


def test_the_battery_of_signs_answers_what_it_says(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    battery = named_battery("signs", eps=0.1)
    assert not battery.survivors_only
    fewer = {"Square": {"queries": 30}, "UniformNoise": {"samples": 30}}  # for the time
    attacks = {name: replace(each, **fewer.get(type(each).__name__, {})) for name, each in battery.attacks.items()}
    table = evaluate(model, (x[:6], y[:6]), attacks, survivors_only=battery.survivors_only)
    asked = {sign.name for sign in signs(table) if sign.present is not None}
    assert asked == {"one-step", "black-box", "unbounded", "chance", "radii", "decisions", "lost", "still"}
    assert asked == set(asked_by(battery))
    with pytest.raises(ValueError, match="got L0"):
        named_battery("signs", norm=L0)


@pytest.mark.parametrize("name", ["quick", "thorough"])
@pytest.mark.parametrize("norm", [Linf, L2, L1, L0], ids=repr)
def test_the_cheap_come_before_the_strong(name: str, norm: Norm) -> None:
    battery = named_battery(name, norm=norm, eps=None if norm is L0 else 0.1)
    asking = (FGSM, UniformNoise)  # whether they find what gradients have left
    costs = [_passes(attack) for attack in battery.attacks.values() if not isinstance(attack, asking)]
    assert costs == sorted(costs)


def test_quick_finds_the_same_worst_case_with_survivors_only(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    battery = named_battery("quick", data="Digits", eps=0.08)
    survivors, whole = (
        evaluate(model, (x, y), battery.attacks, survivors_only=each, progress=False) for each in (True, False)
    )
    ours, theirs = (robust_accuracy(table, Linf, 0.08).value for table in (survivors, whole))
    assert 0 < ours < 1
    assert ours == theirs
    assert len(survivors) < len(whole)
    last = survivors.only("Square Linf 0.08, 100 queries")
    correct = len(last["image"])
    assert correct < len(survivors.only("FMN Linf, 10 steps")["image"])
    assert ours == pytest.approx((correct - last["success"].sum()) / len(x))


@pytest.mark.parametrize("norm", [L2, L1, L0], ids=repr)
def test_quick_runs_in_every_norm(norm: Norm, digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    battery = named_battery("quick", norm=norm, eps={L2: 0.5, L1: 2.0, L0: None}[norm])
    table = evaluate(model, (x[:4], y[:4]), battery.attacks, survivors_only=battery.survivors_only, progress=False)
    assert set(table.attacks) <= set(battery.attacks)
    assert table["success"][table["attack"] == next(iter(battery.attacks))].any()


@pytest.mark.parametrize("norm", [Linf, L2, L1, L0], ids=repr)
def test_quick_has_attacks_for_black_boxes(norm: Norm) -> None:
    battery = named_battery("quick", norm=norm, eps=None if norm is L0 else 0.2)
    assert battery.within("gradients") is battery
    scores, decisions = battery.within("scores"), battery.within("decisions")
    assert ("Square" in " ".join(scores.attacks)) == (norm in (Linf, L2))
    assert {attack.access for attack in decisions.attacks.values()} == {"decisions"}
    assert set(decisions.attacks) <= set(scores.attacks)


def test_attacks_on_decisions_need_classes_alone(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    left = named_battery("quick", eps=0.2).within("decisions").attacks
    table = evaluate(lambda x: model(x).argmax(1), (x[1:4], y[1:4]), left, progress=False)
    assert table["success"].any()


def test_a_black_box_has_neither_gradients_nor_what_needs_them() -> None:
    attacks: dict[str, Attack] = {"FGSM": FGSM(), "HopSkipJump": HopSkipJump()}
    battery = Battery(attacks, deep_defense=True, probes=(LossSensitivity(), PASS()))
    left = battery.within("decisions")
    assert left == Battery({"HopSkipJump": HopSkipJump()}, probes=(PASS(),))
    with pytest.raises(ValueError, match="needs more than the scores that the model gives"):
        named_battery("paper:madry", data="MNIST").within("scores")


def test_an_adversary_gets_a_generator_or_is_left_out_and_named() -> None:
    battery = named_battery("paper:pgn", data="CIFAR10")
    network = nn.Identity()
    given = battery.with_generators(lambda adversary: network)
    assert given.attacks["PGN"] == PGN(generator=network)
    assert list(given.attacks) == list(battery.attacks)
    with pytest.warns(UserWarning, match="left out: PGN, since no generator was trained against this model"):
        without = battery.with_generators()
    assert list(without.attacks) == [name for name in battery.attacks if name != "PGN"]

    def none(adversary: Any) -> nn.Module:
        raise ValueError("this run has none")

    with pytest.raises(ValueError, match="this run has none"):
        Battery({"PGN": PGN()}).with_generators(none)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "standart"}, "no battery standart; did you mean standard"),
        ({"name": "paper:mardy"}, "no battery paper:mardy; did you mean paper:madry"),
        ({"name": "quick"}, "no usual radius in Linf without a data set"),
        ({"name": "standard", "norm": L2, "data": "Digits"}, "no usual radius in L2 for Digits"),
        ({"name": "quick", "eps": 0.0}, "eps is a radius above 0; got 0"),
        ({"name": "quick", "norm": L0, "eps": 5.0}, "leave eps out"),
        ({"name": "paper:madry", "norm": L2, "data": "MNIST"}, "has the norms of its source"),
        ({"name": "paper:madry", "data": "SVHN"}, "radii of cifar10, which mean nothing for SVHN"),
        ({"name": "paper:madry"}, "mean nothing for unnamed data"),
        ({"name": "paper:mma", "data": "MNIST", "eps": 0.3}, "several radii, 0.1, 0.2, 0.3, 0.4"),
        ({"name": "paper:carlini-wagner", "data": "MNIST", "eps": 0.3}, "has no radius"),
    ],
    ids=str,
)
def test_impossible_batteries_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        named_battery(**given)


def test_a_papers_battery_moves_to_another_radius_and_data_set() -> None:
    battery = named_battery("paper:yopo", data="SVHN", eps=4 / 255)
    assert {attack.eps for attack in _bounded(battery)} == {4 / 255}
    steps = [attack.step_size for attack in _bounded(battery) if isinstance(attack, PGD)]
    assert steps == pytest.approx([1 / 255] * 2)
    assert list(battery.attacks) == [str(attack) for attack in battery.attacks.values()]
    assert named_battery("paper:carlini-wagner", data="SVHN") == named_battery("paper:carlini-wagner", data="MNIST")


def test_ones_own_file_builds_on_a_named_battery(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("""
        [evaluation]
        battery = "quick"
        norm = "L2"
        eps = 0.5
        survivors_only = false
        images = 7
        [evaluation.attacks]
        "Square L2 0.5, 100 queries" = { queries = 50 }
        "FGSM L2 0.5" = { kind = "PGD", eps = 0.5, norm = "L2" }
        "rho" = { kind = "DeepFool", steps = 5, reference = "prediction" }
    """)
    battery, quick = named_battery(str(path)), named_battery("quick", norm=L2, eps=0.5)
    assert battery == load_battery(path)
    assert (battery.survivors_only, battery.images) == (False, 7)
    assert battery.attacks == quick.attacks | {
        "Square L2 0.5, 100 queries": Square(0.5, L2, queries=50, rescale=False),
        "FGSM L2 0.5": PGD(eps=0.5, norm=L2),
        "rho": DeepFool(steps=5, reference="prediction"),
    }
    path.write_text('battery = "quik"')
    with pytest.raises(ValueError, match=r"own.toml: there is no battery quik; did you mean quick"):
        load_battery(path)
    path.write_text("battery = ")
    with pytest.raises(ValueError, match="is not TOML"):
        load_battery(path)
    with pytest.raises(FileNotFoundError, match="there is no battery"):
        load_battery(tmp_path / "none.toml")


def test_a_recipe_keeps_the_battery_that_it_names_written_out(tmp_path: Path) -> None:
    path, again = tmp_path / "tiny.toml", tmp_path / "again.toml"
    path.write_text(
        'data = "Digits"\nnetwork = { kind = "MLP" }\ndefence = "Plain"\nevaluation = { battery = "quick" }'
    )
    recipe = load_recipe(path, ['evaluation.attacks."FGSM Linf 0.15".eps=0.2'])
    assert recipe.evaluation.attacks["FGSM Linf 0.15"] == FGSM(0.2)
    again.write_text(to_toml(recipe))
    assert "battery" not in again.read_text()
    assert load_recipe(again) == recipe
    with pytest.raises(ValueError, match="evaluation: there is no battery quikc; did you mean quick"):
        load_recipe(path, ["evaluation.battery=quikc"])


def test_within_keeps_what_lies_inside(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    found = DeepFool()(model, x, y)
    length = (found - x).flatten(1).norm(dim=1)
    eps = float(length[length > 0].median()) + 1e-4
    inside = Within(DeepFool(), eps)(model, x, y)
    assert torch.equal(inside, torch.where((length <= eps)[:, None, None, None], found, x))
    with pytest.raises(ValueError, match="has a radius itself"):
        Within(PGD())


@pytest.mark.parametrize("norm", [Linf, L2, L1, L0])
def test_a_table_of_one_built_battery_is_extended_by_another(norm: Norm) -> None:
    eps = None if norm is L0 else 0.1
    attacks: dict[str, Attack] = {}
    for name in BUILT:
        if (norm, name) == (L0, "signs"):
            continue
        battery = named_battery(name, norm=norm, eps=eps)
        for each, attack in (battery.attacks | battery.black_box).items():
            assert attacks.setdefault(each, attack) == attack, each

"""A Linf radius wider than the box is refused wherever it is given, with what was probably meant."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from every_attack import ATTACKS
from steelman.attacks import FGSM, FMN, PGD, Square, Within, WorstOf
from steelman.attacks.core.attack import Attack
from steelman.attacks.core.oracle import Oracle
from steelman.attacks.core.radius import check_radii, check_radius
from steelman.defences import MMA, YOPO, AdversarialTraining, Free, TradesYOPO
from steelman.evaluation.battery import Battery, load_battery, named_battery
from steelman.evaluation.evaluation import evaluate
from steelman.experiments.recipe import load_recipe
from steelman.experiments.recipe_file import find_recipe
from steelman.experiments.sweep import EvaluationOptions, sweep
from steelman.losses import Goal
from steelman.norms import L0, L1, L2, Linf, Norm
from steelman.randomness import Draws
from steelman.types import Images

X, Y = torch.rand(2, 1, 4, 6), torch.tensor([0, 1])


def linear(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :4] * 3


@pytest.mark.parametrize(
    ("norm", "eps", "box", "meant"),
    [
        (Linf, 8.0, (0.0, 1.0), "did you mean 8/255?"),
        (None, 1.01, (0.0, 1.0), "did you mean 1.01/255?"),
        (Linf, 16.0, (-1.0, 1.0), "did you mean 0.1255?"),
        (Linf, torch.tensor([0.1, 3.0]), (0.0, 1.0), "did you mean 3/255?"),
        (Linf, 1000.0, (0.0, 1.0), "give a radius of at most 1"),
        (Linf, 1.0, (0.0, 1.0), ""),
        (Linf, 8.0, (0.0, 255.0), ""),
        (Linf, 8.0, None, ""),
        (L2, 8.0, (0.0, 1.0), ""),
        (L1, 12.0, (0.0, 1.0), ""),
        (Linf, None, (0.0, 1.0), ""),
    ],
)
def test_what_is_no_bound(norm: Norm | None, eps: float | Tensor | None, box: tuple[float, float] | None, meant: str):
    if not meant:
        return check_radius(norm, eps, box, "here")
    with pytest.raises(ValueError, match=r"^here: eps .* in Linf is larger than the width") as refused:
        check_radius(norm, eps, box, "here")
    assert str(refused.value).endswith(meant)
    return None


@pytest.mark.parametrize("attack", {str(case.attack): case.attack for case in ATTACKS}.values(), ids=str)
def test_every_bounded_attack_is_refused_before_the_model_is_asked(attack: Attack):
    bounded = any(item.name == "eps" for item in fields(attack)) and getattr(attack, "norm", Linf) is Linf
    if not bounded or attack.box is None:
        return

    def asked(x: Tensor) -> Tensor:
        raise AssertionError("the model was asked")

    there = replace(attack, eps=8.0)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match=r"did you mean 8/255\?"):
        there(asked, X, Y)
    with pytest.raises(ValueError, match=r"^name: eps 8 in Linf .*did you mean 8/255\?"):
        Battery({"name": there})


def test_a_radius_inside_of_an_attack_is_found():
    for attack in (WorstOf((FGSM(eps=0.1), PGD(eps=8.0))), FGSM(eps=8.0, reference="prediction")):
        with pytest.raises(ValueError, match=r"8/255"):
            check_radii(attack, "a")
    with pytest.raises(ValueError, match=r"8/255"):
        check_radii(Within(FMN(Linf), eps=8.0), "a")
    check_radii(Within(FMN(Linf), eps=0.1), "a")
    check_radii(FGSM(eps=1.0), "a")
    assert torch.isfinite(FGSM(eps=1.0)(linear, X, Y)).all()


@pytest.mark.parametrize("name", ["quick", "standard", "thorough", "signs", "paper:trades"])
def test_batteries(name: str):
    with pytest.raises(ValueError, match=r"did you mean 8/255\?"):
        named_battery(name, eps=8.0, data="CIFAR10")
    assert named_battery(name, eps=1.0, data="CIFAR10").attacks


def test_batteries_of_files_and_other_norms(tmp_path: Path):
    (tmp_path / "own.toml").write_text('[attacks.first]\nkind = "Square"\neps = 8\n')
    with pytest.raises(ValueError, match=r"first: eps 8 in Linf"):
        load_battery(tmp_path / "own.toml")
    assert named_battery("quick", norm=L2, eps=8.0).attacks
    assert Battery({"a": Square(eps=8.0, box=(0.0, 255.0))})


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        ("pgd_digits_mlp", "defence.attack.eps=8"),
        ("pgd_digits_mlp", 'evaluation.attacks.own={ kind = "FGSM", eps = 8 }'),
        ("pgd_digits_mlp", 'training.monitor={ kind = "PGD", eps = 8.0 }'),
        ("survey_mnist_free", "defence.eps=8"),
        ("learned_mnist_attack-l2lda", "defence.adversary.eps=8"),
    ],
)
def test_recipes_and_their_changes(recipe: str, change: str):
    path = find_recipe(recipe)
    assert load_recipe(path)
    with pytest.raises(ValueError, match=r"did you mean 8/255\?"):
        load_recipe(path, [change])


def test_sweeps_before_any_training(tmp_path: Path):
    for vary, options in (
        ("defence.attack.eps=0.1,8", None),
        ("defence.attack.eps=0.1,0.2", EvaluationOptions("quick", eps=8.0)),
    ):
        with pytest.raises(ValueError, match=r"did you mean 8/255\?"):
            sweep("pgd_digits_mlp", [vary], tmp_path, None, options=options)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_evaluate_before_the_first_attack():
    def asked(x: Tensor) -> Tensor:
        raise AssertionError("the model was asked")

    with pytest.raises(ValueError, match=r"second: eps 8 in Linf .*did you mean 8/255\?"):
        evaluate(asked, (X, Y), {"first": FGSM(eps=0.1), "second": PGD(eps=8.0)}, progress=False)


def test_defences_with_a_radius_of_their_own():
    for defence in (YOPO, TradesYOPO, Free):
        with pytest.raises(ValueError, match=r"did you mean 8/255\?"):
            defence(eps=8.0)
    with pytest.raises(ValueError, match=r"d_max: eps 8 in Linf"):
        MMA(d_max=8.0)
    assert Free(eps=8.0, norm=L2) != Free(eps=8.0, box=None)
    assert MMA(d_max=8.0, norm=L2).d_max == 8
    with pytest.raises(ValueError, match=r"8/255"):
        check_radii(AdversarialTraining(PGD(eps=8.0)), "defence")


@dataclass(frozen=True)
class Moves(Attack):
    """Adds a number to every pixel of some images, whatever its radius."""

    eps: Any = 0.25
    norm: Norm = Linf
    by: float = 0.25
    last: int = 4

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        moved = x.clone()
        moved[: self.last] += self.by
        return moved


FLAT = torch.full((4, 1, 4, 6), 0.5)


def answers(x: Tensor) -> Tensor:
    """Class 1 where the mean has moved."""
    moved = (x.flatten(1).float().mean(1) - 0.5).abs()
    return torch.stack([0.1 - moved, moved], 1)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Moves(), ""),
        (Moves(by=0.25 + 1e-6), ""),  # rounding
        (Moves(by=0.375), "Moves returned 4 images outside of its radius, the first at Linf 0.375 .* eps is 0.25: "),
        (Moves(by=0.26, last=1), "Moves returned 1 images outside"),
        (Moves(eps=1.2, norm=L2), "the first at L2 1.225 from the clean image where eps is 1.2: end `search` with"),
        (Moves(eps=1.23, norm=L2), ""),
        (Moves(eps=23.0, norm=L0), "the first at L0 24 from the clean image where eps is 23"),
        (Moves(eps=24.0, norm=L0), ""),
        (Moves(eps=torch.tensor([0.3, 0.25, 0.2, 0.1])), "returned 2 images .* at Linf 0.25 .* where eps is 0.2"),
        (Moves(eps=0.03, by=0.04), ""),  # too small to change a class: no success
        (Moves(eps=0.6, by=0.6), r"Moves returned images from 1.1 to 1.1 where its box is \(0.0, 1.0\): "),
        (Moves(eps=0.6, by=0.6, box=None), ""),
        (Moves(eps=None, by=0.4), ""),  # no radius of its own
    ],
)  # fmt: skip
def test_a_success_outside_of_its_own_radius_or_box_is_refused(attack: Attack, message: str):
    """Else it would count in the accuracy under the attack, though in no robust accuracy."""
    for images in (FLAT, FLAT.double(), FLAT.half()):
        if not message:
            assert attack.run(answers, images, torch.zeros(4, dtype=torch.long)).linf.max() > 0
            continue
        with pytest.raises(ValueError, match=message):
            attack.run(answers, images, torch.zeros(4, dtype=torch.long))

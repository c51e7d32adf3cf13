"""The signs of masked gradients, on tables written by hand and on networks that have them or not."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from made_up import Own, Row, table_of
from steelman.adversaries import L2LDA, AdvGAN
from steelman.attacks import (
    APGD,
    DDN,
    EOT,
    FGSM,
    FMN,
    PGD,
    Attack,
    AutoAttack,
    BoundaryAttack,
    CarliniWagner,
    DeepFool,
    HopSkipJump,
    MinimalFGSM,
    Square,
    Surrogate,
    UniformNoise,
    WorstOf,
)
from steelman.data import Digits
from steelman.evaluation.battery import sign_attacks
from steelman.evaluation.evaluation import evaluate
from steelman.evaluation.transferability import CraftedOnSource
from steelman.measures.masking import SIGNS, Sign, signs
from steelman.measures.transfer import Transfer
from steelman.norms import L1, L2, Linf, Norm
from steelman.table.records import CLEAN
from steelman.table.table import Evaluation

IMAGES = 200
WRONG = 10
"""So many of the images, the last ones, are wrong to begin with."""


def fgsm(eps: float = 0.1) -> FGSM:
    return FGSM(eps=eps)


def pgd(eps: float = 0.1, norm: Norm = Linf) -> PGD:
    return PGD(eps=eps, steps=20, norm=norm)


NOISE, SQUARE = UniformNoise(eps=0.1, samples=9), Square(eps=0.1)


class Table:
    """A table of images 0, 1, ..., of class 1, whose attacks are written down one by one."""

    def __init__(self, images: int = IMAGES, wrong: int = WRONG) -> None:
        self.images, self.wrong = images, wrong
        self.rows: list[Row] = []
        self._add({"attack": CLEAN}, range(images), range(images - wrong, images), 0.0)

    def _add(self, attack: Row, attacked: Sequence[int], broken: Sequence[int], size: float) -> None:
        image = np.asarray(attacked)
        before = np.where(image >= self.images - self.wrong, 0, 1)
        after = np.where(np.isin(image, broken), 0, before)
        row = attack | {"label": 1} | dict.fromkeys(("l0", "l1", "l2", "linf"), size)
        classes = zip(image.tolist(), before.tolist(), after.tolist(), strict=True)
        self.rows += [
            row | {"image": i, "clean_prediction": one, "prediction": two, "success": not two}
            for i, one, two in classes
        ]

    def with_(
        self,
        attack: Attack,
        broken: Sequence[int],
        *,
        name: str | None = None,
        attacked: Sequence[int] | None = None,
        size: float = 0.05,
    ) -> "Table":
        """One more attack: `broken` are the images that it broke, `attacked` those that it was run on."""
        name = name or f"{type(attack).__name__} {len(self.rows)}"
        self._add({"attack": name, "run": attack}, attacked or range(self.images), broken, size)
        return self

    def table(self) -> Evaluation:
        return table_of(self.rows)

    def sign(self, number: int) -> Sign:
        """The answer to a question, counted from 1."""
        found = signs(self.table())
        assert [(sign.name, sign.question, sign.number) for sign in found] == [
            (*each, place + 1) for place, each in enumerate(SIGNS.items())
        ]
        return found[number - 1]


@pytest.mark.parametrize("attack", [Own(), L2LDA(eps=0.1), EOT(Own(), samples=2)], ids=str)
def test_gradient_attacks_that_are_not_known_by_name_are_held_against_black_boxes(attack: Attack) -> None:
    sign = Table().with_(SQUARE, range(100)).with_(attack, range(60)).sign(2)
    assert sign.present is True
    assert f"{type(attack).__name__} 400 leaves 65.0 %" in sign.numbers


def test_one_step_beats_iterative() -> None:
    worse = Table().with_(fgsm(), range(100)).with_(pgd(), range(60))
    sign = worse.sign(1)
    assert sign.present is True
    # of 200 images 10 are wrong: 190 - 100 and 190 - 60 are left
    assert "leaves 45.0 %" in sign.numbers
    assert "leaves 65.0 %" in sign.numbers
    assert "Linf 0.1" in sign.numbers
    assert Table().with_(fgsm(), range(60)).with_(pgd(), range(100)).sign(1).present is False


def test_of_several_iterative_attacks_the_best_counts() -> None:
    table = Table().with_(fgsm(), range(100)).with_(pgd(), range(60))
    assert table.with_(APGD(eps=0.1, steps=100), range(120)).sign(1).present is False


def test_another_radius_or_norm_is_not_compared() -> None:
    table = Table().with_(fgsm(0.2), range(100)).with_(pgd(), range(60))
    sign = table.with_(pgd(0.2, L2), range(10)).sign(1)
    assert sign.present is None
    assert "FGSM and PGD" in sign.numbers


def test_pgd_of_one_step_is_a_one_step_attack_and_steps_left_out_are_the_default() -> None:
    table = Table().with_(PGD(eps=0.1, steps=1), range(100), name="PGD(steps=9)").with_(PGD(eps=0.1), range(60))
    assert table.sign(1).present is True


def test_a_difference_of_a_few_images_may_be_chance() -> None:
    # 4 images of 200 are 2 %, more than tau; all 4 on one side: (1/2)^4 = .0625. Of 5, .03125.
    four = Table().with_(fgsm(), range(64)).with_(pgd(), range(60)).sign(1)
    assert four.present is False
    assert "may be chance" in four.numbers
    assert Table().with_(fgsm(), range(65)).with_(pgd(), range(60)).sign(1).present is True
    # 10 against 5 of 200 are 2.5 %: P(X >= 10), X ~ B(15, 1/2), is .151
    swapped = Table().with_(fgsm(), range(5, 70)).with_(pgd(), range(60))
    assert swapped.sign(1).present is False


def test_images_that_are_wrong_unattacked_are_nobodys_success() -> None:
    fallen = range(IMAGES - WRONG, IMAGES)
    table = Table().with_(fgsm(), [*range(60), *fallen]).with_(pgd(), range(60))
    assert table.sign(1).present is False


@pytest.mark.parametrize(
    ("attack", "number"),
    [
        (SQUARE, 2),
        (AdvGAN(eps=0.1), 2),
        (Surrogate(pgd(), nn.Flatten()), 6),
        (EOT(Surrogate(pgd(), nn.Flatten()), samples=2), 6),
        (WorstOf((SQUARE, Surrogate(pgd(), "runs/other"))), 6),
        (HopSkipJump(norm=Linf, steps=30), 7),
        (BoundaryAttack(steps=100), 7),
    ],
    ids=str,
)
def test_a_black_box_beats_the_white_ones(attack: Attack, number: int) -> None:
    white = pgd(norm=getattr(attack, "norm"))  # noqa: B009
    table = Table().with_(attack, range(100)).with_(white, range(60))
    assert table.sign(number).present is True
    assert [table.sign(other).present for other in {2, 6, 7} - {number}] == [None, None]
    assert Table().with_(attack, range(50)).with_(white, range(60)).sign(number).present is False
    if getattr(attack, "eps", None) is None:  # minimal: what it found lies outside
        far = Table().with_(attack, range(100), size=0.2).with_(white, range(60))
        assert far.sign(number).present is False


def test_a_mixture_is_neither_black_nor_white() -> None:
    table = Table().with_(AutoAttack(eps=0.1), range(150)).with_(WorstOf((fgsm(), SQUARE)), range(150))
    assert table.sign(2).present is None
    table.with_(SQUARE, range(100)).with_(EOT(pgd(), samples=30), range(60))
    assert table.sign(2).present is True


def test_minimal_attacks_alone_are_compared_at_the_median_that_they_found() -> None:
    def table(black: float) -> Table:
        found = Table().with_(CarliniWagner(steps=1000), range(100), size=2.0)
        return found.with_(HopSkipJump(steps=30), range(190), size=black)

    assert table(1.0).sign(7).present is True
    assert table(3.0).sign(7).present is False


def test_a_black_box_on_survivors_is_judged_by_the_images_that_it_alone_broke() -> None:
    def table(broken: range) -> Table:
        return Table().with_(pgd(), range(60)).with_(SQUARE, broken, attacked=range(60, 190))

    # P(X >= 5), X ~ B(200, .01), is .052, and P(X >= 6) .016
    assert table(range(60, 65)).sign(2).present is False
    sign = table(range(60, 66)).sign(2)
    assert sign.present is True
    assert sign.numbers.startswith("6 of 200 images were broken by Square")
    # Images that the black box broke first were not attacked by the white one, so they show nothing.
    black_first = Table().with_(SQUARE, range(60)).with_(pgd(), range(60, 90), attacked=range(60, 190))
    assert black_first.sign(2).present is None


def transferred(white: range, black: range) -> Transfer:
    def table(target: str) -> Evaluation:
        def crafted(source: str) -> CraftedOnSource:
            return CraftedOnSource(pgd(), nn.Flatten(), source, "PGD", source == target, Path())

        found = Table().with_(crafted("mine"), white, name="PGD from mine")
        return found.with_(crafted("other"), black, name="PGD from other").table()

    return Transfer("PGD", {"mine": table("mine"), "other": table("other")})


def test_transfer_is_a_black_box() -> None:
    empty = Table().table()
    assert signs(empty, transferred(range(60), range(100)), name="mine")[5].present is True
    assert signs(empty, transferred(range(100), range(60)), name="mine")[5].present is False
    assert signs(empty, transferred(range(100), range(60)), name="other")[5].present is True
    assert signs(empty, transferred(range(100), range(60)), name="another")[5].present is None
    with pytest.raises(ValueError, match="give name, one of mine, other"):
        signs(empty, transferred(range(1), range(2)))


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=1.0, random_start=False), EOT(PGD(eps=1.0)), Own(eps=1.0), FMN(steps=100), DeepFool(), EOT(DeepFool())],
    ids=str,
)
def test_attacks_without_a_bound_break_every_image(attack: Attack) -> None:
    assert Table().with_(attack, range(185), size=0.9).sign(3).present is False  # 5 of 200 are left
    sign = Table().with_(attack, range(184), size=0.9).sign(3)
    assert sign.present is True
    assert "3.0 %" in sign.numbers


@pytest.mark.parametrize(
    "attack",
    [
        DeepFool(steps=5),
        MinimalFGSM(),
        PGD(eps=0.9),
        PGD(eps=1.5, norm=L2),
        Square(eps=1.0),
        HopSkipJump(),
        Surrogate(DeepFool(), nn.Flatten()),
        WorstOf((PGD(eps=1.0), Square(eps=1.0))),
    ],
    ids=str,
)
def test_an_attack_that_is_short_bounded_or_black_does_not_answer_for_the_gradient(attack: Attack) -> None:
    assert Table().with_(attack, range(10)).sign(3).present is None


def test_an_image_is_left_only_where_all_unbounded_attacks_left_it() -> None:
    table = Table().with_(FMN(steps=100), range(100)).with_(DDN(steps=100), range(90, 190))
    assert table.sign(3).present is False


def test_skipped_images_count_as_broken_where_another_white_box_broke_them() -> None:
    def table(first: Attack) -> Table:
        return Table().with_(first, range(100)).with_(pgd(1.0), range(100, 190), attacked=range(100, 190))

    assert table(pgd()).sign(3).present is False
    assert table(SQUARE).sign(3).present is None


@pytest.mark.parametrize("cascade", [False, True])
def test_chance_is_judged_image_by_image(cascade: bool) -> None:
    attacked = range(60, 190) if cascade else None
    # Fewer are broken by random draws than by PGD, but six of them by no other attack.
    sign = Table().with_(pgd(), range(60)).with_(NOISE, range(60, 66), attacked=attacked).sign(4)
    assert sign.present is True
    assert sign.numbers.startswith("6 of 200 images were broken by UniformNoise")
    table = Table().with_(pgd(), range(60))
    assert table.with_(NOISE, range(58, 62), attacked=None).sign(4).present is False
    assert Table().with_(pgd(), range(60)).sign(4).present is None


def along(*left: int, radii: Sequence[float] = (0.1, 0.2, 0.4, 0.8)) -> Sign:
    """PGD that leaves so many images at each radius."""
    table = Table(IMAGES, 0)
    for each, eps in zip(left, radii, strict=False):
        table.with_(pgd(eps), range(IMAGES - each))
    return table.sign(5)


@pytest.mark.parametrize(
    ("left", "radii", "present", "text"),
    [
        ((150, 100, 40, 0), (0.1, 0.2, 0.4, 0.8), False, "75.0, 50.0, 20.0, 0.0 %"),
        ((150, 100, 40, 2), (0.1, 0.2, 0.4, 0.8), False, ""),  # 1 % is nothing
        ((150, 100, 120, 0), (0.1, 0.2, 0.4, 0.8), True, "it rises"),
        ((150, 100, 102, 0), (0.1, 0.2, 0.4, 0.8), False, ""),  # by no more than tau
        ((150, 100, 100, 100), (0.1, 0.2, 0.4, 0.8), True, "from 0.2 on it is flat"),
        ((150, 100, 100, 99), (0.1, 0.2, 0.4, 0.8), None, "a larger radius would show it"),
        ((150, 100, 100, 100), (0.1, 0.2, 0.25, 0.3), None, "a larger radius would show it"),  # hardly larger
        ((190, 190, 190, 0), (0.1, 0.2, 0.4, 0.8), False, ""),  # flat at first, as where training has seen it
        ((150, 100, 40, 3), (0.1, 0.2, 0.4, 1.0), True, "no bound"),
        ((150,), (0.1,), None, "several radii"),
    ],
)
def test_accuracy_falls_to_zero_along_the_radii(
    left: tuple[int, ...], radii: tuple[float, ...], present: bool | None, text: str
) -> None:
    sign = along(*left, radii=radii)
    assert sign.present is present
    assert text in sign.numbers


def test_other_settings_are_another_family() -> None:
    table = Table().with_(PGD(eps=0.1, steps=5), range(100)).with_(PGD(eps=0.2, steps=20), range(50))
    assert table.sign(5).present is None


def test_no_sign_is_measured_where_no_image_is_right_or_attacked() -> None:
    for table in (Table(3, 3).with_(pgd(), []), Table()):
        assert [sign.present for sign in signs(table.table())] == [None] * len(SIGNS)


@cache
def network(eps: float = 0.0) -> nn.Module:
    """A little trained on digits; with eps, on what FGSM makes of them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    (train,) = Digits().load("train").batches([torch.arange(600)])
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(30):
        x = FGSM(eps=eps)(net, train.x, train.y) if eps else train.x
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), train.y).backward()
        optimiser.step()
    return net


ATTACKS: dict[str, Attack] = {**sign_attacks(eps=0.15, steps=8, draws=10), "Square": Square(eps=0.15, queries=60)}


def asked(model: nn.Module) -> list[bool | None]:
    """The first five."""
    found = signs(evaluate(model, Digits().load("test").subset(torch.arange(40)), ATTACKS))
    return [sign.present for sign in found[:5]]


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_honest_networks_have_none(eps: float) -> None:
    assert asked(network(eps=eps)) == [False] * 5


class Rounded(nn.Module):
    """Images of one bit, without a gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.round())


@pytest.mark.filterwarnings("ignore:.*gradient")
def test_a_model_without_a_gradient_has_all_but_the_first() -> None:
    assert asked(Rounded(network())) == [False, True, True, True, True]


class Once(nn.Module):
    """A gradient on the pictures as they are, in sixteenths, and nowhere else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        there = (x * 16 == (x * 16).round()).flatten(1).all(1)
        answer = self.network(x)
        return torch.where(there[:, None], answer, answer.detach())


@pytest.mark.filterwarnings("ignore:.*gradient")
def test_a_gradient_that_is_gone_after_the_first_step_has_the_first() -> None:
    assert asked(Once(network()))[0] is True


def test_the_attacks_answer_in_every_norm() -> None:
    for norm, eps in ((Linf, 0.3), (L2, 0.5), (L1, 5.0)):
        found = sign_attacks(norm, eps)
        assert found[str(FGSM(eps=eps, norm=norm))]
        assert sum(isinstance(attack, PGD) and attack.norm is norm for attack in found.values()) >= 4
        assert any(isinstance(attack, PGD) and attack.eps == 1 and attack.norm is Linf for attack in found.values())
    assert not any(isinstance(attack, HopSkipJump | Square) for attack in sign_attacks().values())
    assert max(attack.eps for attack in sign_attacks(Linf, 0.3).values() if isinstance(attack, PGD)) == 1

"""The five signs of masked gradients, on tables written by hand and on networks that have them or not."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelman.attacks import FGSM, PGD, Attack, HopSkipJump, Square
from steelman.data import Digits
from steelman.evaluation.checkup.signs import QUESTIONS, Sign, sign_attacks, signs
from steelman.evaluation.evaluate import evaluate
from steelman.evaluation.table import CLEAN, COLUMNS, Evaluation
from steelman.evaluation.transfer.transfer import Transfer
from steelman.norms import L1, L2, Linf

IMAGES = 200
WRONG = 10
"""So many of the images, the last ones, are wrong to begin with."""

PGD_ = "PGD(box=(0.0, 1.0), eps={}, steps=20, step_size=None, norm=Linf)"


class Table:
    """A table of images 0, 1, ..., of class 1, whose attacks are written down one by one."""

    def __init__(self, images: int = IMAGES, wrong: int = WRONG) -> None:
        self.images, self.wrong = images, wrong
        self.columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._add(CLEAN, "", None, 0.0, range(images), range(images - wrong, images), 0.0)

    def _add(
        self, name: str, call: str, norm: str | None, eps: float, met: Sequence[int], fell: Sequence[int], size: float
    ) -> None:
        image = np.asarray(met)
        before = np.where(image >= self.images - self.wrong, 0, 1)
        after = np.where(np.isin(image, fell), 0, before)
        values: dict[str, Any] = dict.fromkeys(COLUMNS, 0.0) | dict.fromkeys(("forwards", "gradients"), 0)
        values |= {
            "attack": name,
            "space": "pixels",
            "parameters": call,
            "away_from": "label",
            "norm": norm,
            "eps": eps,
        }
        values |= {"image": image, "label": 1, "clean_prediction": before, "prediction": after, "success": after == 0}
        values |= dict.fromkeys(("l0", "l1", "l2", "linf"), size)
        for column, value in values.items():
            self.columns[column].extend(np.broadcast_to(value, len(image)).tolist())

    def with_(
        self,
        call: str,
        fell: Sequence[int],
        eps: float = 0.1,
        *,
        name: str | None = None,
        met: Sequence[int] | None = None,
        size: float = 0.05,
        norm: str = "Linf",
    ) -> "Table":
        """One more attack: `fell` are the images that it felled, `met` those that it met."""
        self._add(
            name or f"{call[:12]} {len(self.columns['image'])}", call, norm, eps, met or range(self.images), fell, size
        )
        return self

    def table(self) -> Evaluation:
        return Evaluation.from_columns(self.columns)

    def sign(self, number: int) -> Sign:
        """The answer to a question, of which there are five, counted from 1."""
        found = signs(self.table())
        assert tuple(sign.question for sign in found) == QUESTIONS
        return found[number - 1]


NAN = float("nan")


def test_one_step_beats_iterative() -> None:
    worse = Table().with_("FGSM(eps=0.1)", range(100)).with_(PGD_.format(0.1), range(60))
    sign = worse.sign(1)
    assert sign.found is True
    # of 200 images 10 are wrong: 190 - 100 and 190 - 60 are left
    assert "leaves 45.0 %" in sign.numbers
    assert "leaves 65.0 %" in sign.numbers
    assert "Linf 0.1" in sign.numbers
    assert Table().with_("FGSM(eps=0.1)", range(60)).with_(PGD_.format(0.1), range(100)).sign(1).found is False


def test_of_several_iterative_attacks_the_best_counts() -> None:
    table = Table().with_("FGSM(eps=0.1)", range(100)).with_(PGD_.format(0.1), range(60))
    assert table.with_("APGD(eps=0.1, steps=100)", range(120)).sign(1).found is False


def test_another_radius_or_norm_is_not_compared() -> None:
    table = Table().with_("FGSM(eps=0.2)", range(100), 0.2).with_(PGD_.format(0.1), range(60))
    sign = table.with_("PGD(norm=L2, steps=20)", range(10), 0.2, norm="L2").sign(1)
    assert sign.found is None
    assert "FGSM and PGD" in sign.numbers


def test_pgd_of_one_step_is_a_one_step_attack_and_steps_left_out_are_the_default() -> None:
    table = Table().with_("PGD(steps=1)", range(100), name="one").with_("", range(60), name="PGD(eps=0.1)")
    assert table.sign(1).found is True


def test_a_difference_of_a_few_images_may_be_chance() -> None:
    # 4 images of 200 are 2 %, more than tau; all 4 on one side: (1/2)^4 = .0625. Of 5, .03125.
    four = Table().with_("FGSM(eps=0.1)", range(64)).with_(PGD_.format(0.1), range(60)).sign(1)
    assert four.found is False
    assert "may be chance" in four.numbers
    assert Table().with_("FGSM(eps=0.1)", range(65)).with_(PGD_.format(0.1), range(60)).sign(1).found is True
    # 10 against 5 of 200 are 2.5 %: P(X >= 10), X ~ B(15, 1/2), is .151
    swapped = Table().with_("FGSM(eps=0.1)", range(5, 70)).with_(PGD_.format(0.1), range(60))
    assert swapped.sign(1).found is False


def test_images_that_are_wrong_unattacked_are_nobodys_success() -> None:
    fallen = range(IMAGES - WRONG, IMAGES)
    table = Table().with_("FGSM(eps=0.1)", [*range(60), *fallen]).with_(PGD_.format(0.1), range(60))
    assert table.sign(1).found is False


@pytest.mark.parametrize(
    "call",
    [
        "Square(eps=0.1, queries=5000)",
        "HopSkipJump(steps=30)",
        "BoundaryAttack(steps=100)",
        "Surrogate(attack=PGD(eps=0.1, steps=20), model=Linear(in_features=64))",
        "WorstOf(attacks=(Square(eps=0.1), Surrogate(attack=PGD(eps=0.1), model='runs/other')))",
    ],
)
def test_a_black_box_beats_the_white_ones(call: str) -> None:
    minimal = call.startswith(("Hop", "Bound"))
    eps = NAN if minimal else 0.1
    assert Table().with_(call, range(100), eps).with_(PGD_.format(0.1), range(60)).sign(2).found is True
    assert Table().with_(call, range(50), eps).with_(PGD_.format(0.1), range(60)).sign(2).found is False
    if minimal:  # what it found lies outside
        far = Table().with_(call, range(100), eps, size=0.2).with_(PGD_.format(0.1), range(60))
        assert far.sign(2).found is False


def test_a_mixture_is_neither_black_nor_white() -> None:
    table = Table().with_("AutoAttack(eps=0.1)", range(150)).with_("WorstOf(attacks=(FGSM(), Square()))", range(150))
    assert table.sign(2).found is None
    table.with_("Square(eps=0.1)", range(100)).with_("EOT(attack=PGD(eps=0.1, steps=20), samples=30)", range(60))
    assert table.sign(2).found is True


def test_minimal_attacks_alone_are_compared_at_the_median_that_they_found() -> None:
    def table(black: float) -> Table:
        found = Table().with_("CarliniWagner(steps=1000)", range(100), NAN, size=2.0, norm="L2")
        return found.with_("HopSkipJump(steps=30)", range(190), NAN, size=black, norm="L2")

    assert table(1.0).sign(2).found is True
    assert table(3.0).sign(2).found is False


def test_a_black_box_that_met_what_was_left_is_judged_by_whom_it_felled_alone() -> None:
    def table(fell: range) -> Table:
        return Table().with_(PGD_.format(0.1), range(60)).with_("Square(eps=0.1)", fell, met=range(60, 190))

    assert table(range(60, 62)).sign(2).found is False  # 1 % is not more than tau
    sign = table(range(60, 63)).sign(2)
    assert sign.found is True
    assert sign.numbers.startswith("3 of 200 images fell to Square")
    # Those that fell to the black box first, which the white one has not met, say nothing.
    black_first = Table().with_("Square(eps=0.1)", range(60)).with_(PGD_.format(0.1), range(60, 90), met=range(60, 190))
    assert black_first.sign(2).found is None


def transferred(white: range, black: range) -> Transfer:
    table = Table().with_(PGD_.format(0.1), white, name="PGD from mine")
    table = table.with_(PGD_.format(0.1), black, name="PGD from other").table()
    return Transfer("PGD", ("mine", "other"), {"mine": table, "other": table}, frozenset({("mine", "mine")}))


def test_transfer_is_a_black_box() -> None:
    empty = Table().table()
    assert signs(empty, transferred(range(60), range(100)), name="mine")[1].found is True
    assert signs(empty, transferred(range(100), range(60)), name="mine")[1].found is False
    assert signs(empty, transferred(range(100), range(60)), name="another")[1].found is None
    with pytest.raises(ValueError, match="give name, one of mine, other"):
        signs(empty, transferred(range(1), range(2)))


@pytest.mark.parametrize(
    ("call", "eps"), [("PGD(eps=1.0, random_start=False)", 1.0), ("FMN(steps=100)", NAN), ("DeepFool()", NAN)]
)
def test_without_bound_nothing_may_stand(call: str, eps: float) -> None:
    assert Table().with_(call, range(188), eps, size=0.9).sign(3).found is False  # 2 of 200 are left
    sign = Table().with_(call, range(187), eps, size=0.9).sign(3)
    assert sign.found is True
    assert "1.5 %" in sign.numbers


@pytest.mark.parametrize(
    ("call", "eps"),
    [
        ("DeepFool(steps=5)", NAN),
        ("MinimalFGSM()", NAN),
        ("PGD()", 0.9),
        ("Square(eps=1.0)", 1.0),
        ("HopSkipJump()", NAN),
    ],
)
def test_an_attack_that_is_short_bounded_or_black_does_not_answer_for_the_gradient(call: str, eps: float) -> None:
    assert Table().with_(call, range(10), eps).sign(3).found is None


def test_an_image_is_left_only_where_all_unbounded_attacks_left_it() -> None:
    table = Table().with_("FMN(steps=100)", range(100), NAN).with_("DDN(steps=100)", range(90, 190), NAN)
    assert table.sign(3).found is False


def test_of_images_that_it_did_not_meet_it_speaks_where_another_white_box_felled_them() -> None:
    def table(first: str) -> Table:
        return Table().with_(first, range(100)).with_(PGD_.format(1.0), range(100, 190), 1.0, met=range(100, 190))

    assert table(PGD_.format(0.1)).sign(3).found is False
    assert table("Square(eps=0.1)").sign(3).found is None


@pytest.mark.parametrize("cascade", [False, True])
def test_chance_is_judged_image_by_image(cascade: bool) -> None:
    met = range(60, 190) if cascade else None
    # Fewer fall to chance than to PGD, but three of them to nothing else.
    sign = Table().with_(PGD_.format(0.1), range(60)).with_("UniformNoise(samples=9)", range(60, 63), met=met).sign(4)
    assert sign.found is True
    assert sign.numbers.startswith("3 of 200 images fell to UniformNoise")
    table = Table().with_(PGD_.format(0.1), range(60))
    assert table.with_("UniformNoise(samples=9)", range(58, 62), met=None).sign(4).found is False
    assert Table().with_(PGD_.format(0.1), range(60)).sign(4).found is None


def along(*left: int, radii: Sequence[float] = (0.1, 0.2, 0.4, 0.8), norm: str = "Linf") -> Sign:
    """PGD that leaves so many images at each radius."""
    table = Table(IMAGES, 0)
    for each, eps in zip(left, radii, strict=False):
        table.with_(PGD_.format(eps), range(IMAGES - each), eps, norm=norm)
    return table.sign(5)


@pytest.mark.parametrize(
    ("left", "radii", "found", "said"),
    [
        ((150, 100, 40, 0), (0.1, 0.2, 0.4, 0.8), False, "75.0, 50.0, 20.0, 0.0 %"),
        ((150, 100, 40, 2), (0.1, 0.2, 0.4, 0.8), False, ""),  # 1 % is nothing
        ((150, 100, 120, 0), (0.1, 0.2, 0.4, 0.8), True, "it rises"),
        ((150, 100, 102, 0), (0.1, 0.2, 0.4, 0.8), False, ""),  # by no more than tau
        ((150, 100, 100, 100), (0.1, 0.2, 0.4, 0.8), True, "from 0.2 on it is flat"),
        ((150, 100, 100, 99), (0.1, 0.2, 0.4, 0.8), None, "a larger radius would tell"),
        ((150, 100, 100, 100), (0.1, 0.2, 0.25, 0.3), None, "a larger radius would tell"),  # hardly larger
        ((190, 190, 190, 0), (0.1, 0.2, 0.4, 0.8), False, ""),  # flat at first, as where training has seen it
        ((150, 100, 40, 3), (0.1, 0.2, 0.4, 1.0), True, "no bound"),
        ((150,), (0.1,), None, "several radii"),
    ],
)
def test_accuracy_falls_to_nothing_along_the_radii(
    left: tuple[int, ...], radii: tuple[float, ...], found: bool | None, said: str
) -> None:
    sign = along(*left, radii=radii)
    assert sign.found is found
    assert said in sign.numbers


def test_other_settings_are_another_family() -> None:
    table = Table().with_("PGD(eps=0.1, steps=5)", range(100)).with_("PGD(eps=0.2, steps=20)", range(50), 0.2)
    assert table.sign(5).found is None


def test_nothing_is_asked_where_nothing_is_right_or_attacked() -> None:
    for table in (Table(3, 3).with_(PGD_.format(0.1), []), Table()):
        assert [sign.found for sign in signs(table.table())] == [None] * 5


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
    return [sign.found for sign in signs(evaluate(model, Digits().load("test").subset(torch.arange(40)), ATTACKS))]


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

"""The signs that attacks failed: too short, a lost success, a loss that never rose; on tables written by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from digits_network import trained
from made_up import Row, record, table_of
from steelman.adaptive import Adaptive
from steelman.attacks import APGD, EOT, FGSM, FMN, PGD, Attack, HopSkipJump, Square, Within
from steelman.data import Digits
from steelman.evaluation import evaluate, named_battery
from steelman.evaluation.asking import asked_by, further, would_ask
from steelman.evaluation.battery import BUILT
from steelman.losses import DLR
from steelman.measures.masking import SIGNS, Sign, signs
from steelman.norms import L2, Linf
from steelman.table.records import CLEAN, record_of

IMAGES = 200
APGD_20 = APGD(eps=0.1, steps=20, stop_early=True)
PGD_20 = PGD(eps=0.1, steps=20)


def table(*attacks: tuple[Attack, Mapping[str, object]], clean: Sequence[float] | float = 0.1) -> Sequence[Row]:
    """Rows of so many images of class 1, all right. Of each attack: which images it broke, which it was run on, and
    columns, each a number or one per image."""
    before = [clean] * IMAGES if isinstance(clean, float) else list(clean)
    rows: list[Row] = []

    def add(name: str, broken: Sequence[int], attacked: Sequence[int], columns: Mapping[str, object]) -> None:
        for image in attacked:
            own = {key: each[image] if isinstance(each, list) else each for key, each in columns.items()}
            hit = image in broken
            row: Row = {"image": image, "attack": name, "label": 1, "clean_prediction": 1, "prediction": 1 - hit}
            row |= {"success": hit, "forwards": 0, "gradients": 0, "loss": before[image]}
            row |= dict.fromkeys(("l0", "l1", "l2", "linf"), 0.05 if name != CLEAN else 0.0)
            rows.append(row | own)

    add(CLEAN, (), range(IMAGES), {"run": ""})
    for place, (attack, more) in enumerate(attacks):
        settings = dict(more)
        broken, attacked = settings.pop("broken", range(0)), settings.pop("attacked", range(IMAGES))
        assert isinstance(broken, Sequence)
        assert isinstance(attacked, Sequence)
        add(f"{type(attack).__name__} {place}", broken, attacked, {"run": attack} | settings)
    return rows


def sign(name: str, rows: Sequence[Row]) -> Sign:
    return {each.name: each for each in signs(table_of(list(rows)))}[name]


def passes(late: int, early: int, last: int = 20, first: int = 5, rest: int = 20) -> dict[str, object]:
    """The first images are broken after `first` passes, the next after `last`; the others had `rest`."""
    spent = [first] * early + [last] * late + [rest] * (IMAGES - early - late)
    return {"broken": range(early + late), "gradients": spent}


# Convergence


def test_images_that_are_broken_in_the_last_quarter_of_the_passes() -> None:
    # P(X >= 5), X ~ B(200, .01), is .052, and P(X >= 6) .016
    assert sign("convergence", table((APGD_20, passes(5, 60)))).present is False
    found = sign("convergence", table((APGD_20, passes(6, 60))))
    assert found.present is True
    assert found.numbers.startswith("6 of 200 images were first broken in the last quarter of the 20 gradient passes")
    assert sign("convergence", table((APGD_20, passes(30, 60, last=15)))).present is False


def test_passes_are_counted_over_all_attacks_that_stop_early() -> None:
    """The last steps of the first attack are no end where another follows, of which they are the beginning."""
    first, margin = passes(30, 30), replace(APGD_20, loss=DLR(), restarts=3)
    rest = {"attacked": range(60, IMAGES), "gradients": [60] * IMAGES}
    assert sign("convergence", table((APGD_20, first), (margin, rest))).present is False
    late = {"broken": range(60, 70), "attacked": range(60, IMAGES), "gradients": [50] * 70 + [60] * 130}
    assert sign("convergence", table((APGD_20, first), (margin, late))).present is True
    assert (
        sign("convergence", table((APGD_20, first), (margin, late | {"gradients": [20] * 70 + [60] * 130}))).present
        is False
    )


@pytest.mark.parametrize(
    "attack", [PGD_20, APGD(eps=0.1, steps=20), EOT(APGD(eps=0.1, steps=20)), FMN(steps=30)], ids=str
)
def test_an_attack_that_runs_to_its_end_does_not_say_when_it_broke_an_image(attack: Attack) -> None:
    assert sign("convergence", table((attack, {"broken": range(90), "gradients": 20}))).present is None


@pytest.mark.parametrize(
    ("longer", "gain", "present"),
    [
        (replace(PGD_20, steps=40), 20, True),
        (replace(PGD_20, steps=40, step_size=0.001), 20, True),
        (replace(PGD_20, restarts=4), 20, True),
        (replace(PGD_20, steps=40), 2, False),  # 1 % is nothing
        (replace(PGD_20, steps=40), 4, False),  # (1/2)^4 = .0625
        (replace(PGD_20, steps=40), 5, True),
        (replace(PGD_20, steps=100), 20, None),  # what five times the steps gain, twice may not
        (replace(PGD_20, steps=30), 20, None),
        (replace(PGD_20, steps=40, loss=DLR()), 20, None),  # another loss is another attack
        (replace(PGD_20, steps=40, eps=0.2), 20, None),
    ],
    ids=str,
)
def test_two_to_four_times_the_steps_or_restarts(longer: Attack, gain: int, present: bool | None) -> None:
    rows = table((PGD_20, {"broken": range(60)}), (longer, {"broken": range(60 + gain)}))
    assert sign("convergence", rows).present is present


def test_the_longest_is_what_counts() -> None:
    runs = [
        (replace(PGD_20, steps=steps), {"broken": range(40 + gain)}) for steps, gain in ((20, 0), (40, 20), (80, 21))
    ]
    assert sign("convergence", table(*runs)).present is False


def test_a_longer_attack_on_survivors() -> None:
    rest = {"broken": range(60, 66), "attacked": range(60, IMAGES)}
    assert (
        sign("convergence", table((PGD_20, {"broken": range(60)}), (replace(PGD_20, steps=40), rest))).present is True
    )


# Successes that were lost


@pytest.mark.parametrize(
    "attack", [APGD_20, PGD(eps=0.1, steps=20, stop_early=True), Square(eps=0.1, queries=20)], ids=str
)
def test_a_search_that_stopped_at_a_success_which_its_image_is_not(attack: Attack) -> None:
    column = "forwards" if isinstance(attack, Square) else "gradients"

    def lost(count: int) -> bool | None:
        """60 are broken, `count` others stopped early too."""
        return sign(
            "lost", table((attack, {"broken": range(60), column: [7] * (60 + count) + [20] * (140 - count)}))
        ).present

    assert lost(5) is False
    assert lost(6) is True
    assert sign("lost", table((attack, {"broken": range(60)}))).present is None  # an older table, without passes


def test_only_attacks_that_stop_early_can_lose_so() -> None:
    odd = {"broken": range(60), "gradients": [7] * 100 + [20] * 100}
    assert sign("lost", table((PGD_20, odd), (FMN(steps=30), odd), (FGSM(eps=0.1), odd))).present is None


# Losses that never rose


def test_losses_that_white_boxes_did_not_raise() -> None:
    def still(count: int, attack: Attack = PGD_20) -> bool | None:
        """60 are broken, of the 140 that are left so many have the loss that they had."""
        return sign(
            "still", table((attack, {"broken": range(60), "loss": [3.0] * 60 + [0.1] * count + [0.5] * IMAGES}))
        ).present

    assert still(5) is False
    assert still(6) is True
    assert still(100, Within(FMN(Linf, steps=30), 0.1)) is True
    assert [still(100, attack) for attack in (Square(eps=0.1), HopSkipJump(), FMN(steps=30))] == [None] * 3


def test_one_attack_that_raised_it_is_enough() -> None:
    flat, steep = {"loss": 0.1}, {"loss": 0.2}
    assert sign("still", table((PGD_20, flat))).present is True
    assert sign("still", table((PGD_20, flat), (FGSM(eps=0.1), steep))).present is False
    assert sign("still", table((PGD_20, flat), (FGSM(eps=0.2), steep))).present is True  # another radius


def test_where_nothing_is_left_no_loss_stood_still() -> None:
    whole = table((FMN(Linf, steps=30), {"broken": range(IMAGES)}))
    without_rows = table_of(list(whole), records=[record({"attack": "PGD", "run": PGD_20})])
    assert {each.name: each for each in signs(without_rows)}["still"].present is False


def test_a_loss_that_is_lost_in_rounding_says_nothing() -> None:
    assert sign("still", table((PGD_20, {"loss": 1e-7}), clean=1e-7)).present is None
    assert sign("still", table((PGD_20, {"loss": 0.2}), clean=1e-7)).present is False
    assert sign("still", table((PGD_20, {"loss": float("nan")}))).present is None


# One step, on what others have left; minimal attacks that were short


def test_one_step_on_what_iterative_attacks_have_left() -> None:
    minimal, first = (
        (FMN(Linf, steps=10), {"broken": range(40)}),
        (APGD_20, {"broken": range(40, 60), "attacked": range(40, 200)}),
    )

    def after(count: int) -> bool | None:
        rest = {"broken": range(60, 60 + count), "attacked": range(60, IMAGES)}
        return sign("one-step", table(minimal, first, (FGSM(eps=0.1), rest))).present

    assert [after(0), after(5), after(6)] == [False, False, True]
    # FGSM first: what it broke was not attacked by APGD, which may have broken it too
    before = (FGSM(eps=0.1), {"broken": range(20)})
    rows = table(before, (FMN(Linf, steps=10), {"broken": range(20, 40)}), (APGD_20, {"attacked": range(40, 200)}))
    assert sign("one-step", rows).present is None


def test_a_short_minimal_attack_is_judged_by_the_passes_that_it_spent() -> None:
    short = FMN(Linf, steps=10)
    assert sign("unbounded", table((short, {"broken": range(IMAGES)}))).present is False
    assert sign("unbounded", table((short, {"broken": range(180), "gradients": 15}))).present is None
    assert (
        sign("unbounded", table((short, {"broken": range(180), "gradients": [15] * 180 + [24] * 20}))).present is True
    )
    assert (
        sign("unbounded", table((short, {"broken": range(195), "gradients": [15] * 195 + [24] * 5}))).present is False
    )


def test_adaptive_attacks_are_no_evidence() -> None:
    black, adaptive = Square(eps=0.1), Adaptive(Square(eps=0.1))
    assert sign("black-box", table((PGD_20, {}), (black, {"broken": range(90)}))).present is True
    rows = table((PGD_20, {}), (adaptive, {"broken": range(90)}))
    assert {each.name: each.present for each in signs(table_of(list(rows)))} == {
        each.name: each.present for each in signs(table_of(list(table((PGD_20, {})))))
    }


# Which battery asks


def test_what_batteries_ask() -> None:
    quick, standard, thorough, full = (asked_by(named_battery(name, eps=0.1)) for name in BUILT)
    assert {"one-step", "unbounded", "black-box", "convergence", "lost", "still"} == set(quick)
    assert set(standard) == set(quick)
    assert set(thorough) == {*quick, "chance"}
    assert {"radii", "decisions", "chance"} < set(full)
    assert "unbounded" not in asked_by(named_battery("quick", eps=0.1), "scores")


def test_what_the_next_battery_would_ask() -> None:
    found = [Sign("?", "", None if name in ("chance", "radii", "transfer") else False, name=name) for name in SIGNS]
    assert {name: [each.name for each in some] for name, some in further(found, "Linf", 0.1).items()} == {
        "thorough": ["chance"],
        "signs": ["chance", "radii"],
    }
    assert would_ask(found, "Linf", 0.1) == "thorough would ask chance, signs chance and radii"
    assert would_ask(found, "L0") == ""
    assert would_ask(found[:3], "Linf", 0.1) == ""


def test_a_battery_of_which_every_attack_was_run_is_not_named() -> None:
    """Losses that are lost in rounding leave a sign open, and the same attacks would leave it open again."""
    found = [Sign("?", "", None, name="still")]
    attacks = named_battery("quick", eps=0.1).attacks
    had = [record_of(name, attack) for name, attack in attacks.items()]
    assert "quick" in further(found, "Linf", 0.1, run=had[1:])
    assert "quick" not in further(found, "Linf", 0.1, run=had)
    assert "quick" in further(found, "Linf", 0.2, run=had)


# Networks

NET = trained()
TEST = Digits().load("test").subset(torch.arange(100))


def present(model: nn.Module, battery: str, norm: str = "Linf", eps: float = 0.15) -> tuple[list[str], set[str]]:
    chosen = named_battery(battery, norm=L2 if norm == "L2" else Linf, eps=eps)
    found = signs(evaluate(model, TEST, chosen.attacks, survivors_only=chosen.survivors_only, progress=False))
    return [each.name for each in found if each.present], {each.name for each in found if each.present is not None}


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.15), ("Linf", 0.05), ("L2", 0.5)])
def test_quick_asks_an_honest_network_six_and_finds_none(norm: str, eps: float) -> None:
    found, asked = present(NET, "quick", norm, eps)
    assert not found
    assert asked == {"one-step", "unbounded", "black-box", "convergence", "lost", "still"}


class Lucky(nn.Module):
    """Draws at random and does not say so."""

    def forward(self, x: Tensor) -> Tensor:
        return NET(x + 0.3 * torch.randn_like(x))


@pytest.mark.filterwarnings("ignore:.*gradient")
def test_a_random_model_loses_what_was_found() -> None:
    assert "lost" in present(Lucky(), "quick", eps=0.02)[0]


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return NET((3 * x).round() / 3)


@pytest.mark.filterwarnings("ignore:.*gradient")
def test_a_model_without_gradients_stays_still() -> None:
    assert {"still", "unbounded"} <= set(present(Rounded(), "quick")[0])

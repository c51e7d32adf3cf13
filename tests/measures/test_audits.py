"""What a sample shows: the exact bound, the draw, and the reasons to attack all images."""

from math import comb, nan

import numpy as np
import pytest

from audited import RUN, audited, made, row, sampled
from steelman.attacks import Square
from steelman.measures import Unmeasured, accuracy, robust_accuracy, unmeasured
from steelman.measures.audits import Audit, audits, in_turn, most_unseen, sample_size, suspicions
from steelman.measures.rows import rows
from steelman.measures.waterfalls import waterfall
from steelman.norms import Linf


@pytest.mark.parametrize(("count", "sampled"), [(200, 60), (800, 60), (6000, 60), (61, 30), (40, 7), (5, 1), (9, 8)])
def test_the_bound_is_the_last_number_that_a_clean_sample_still_allows(count: int, sampled: int) -> None:
    found = most_unseen(count, sampled)
    clean = [comb(count - bad, sampled) / comb(count, sampled) for bad in range(count - sampled + 1)]
    assert clean[found] > 0.05
    assert found == count - sampled or clean[found + 1] <= 0.05


def test_the_bounds_are_those_that_the_page_states() -> None:
    shares = [100 * most_unseen(count, 60) / count for count in (200, 800, 6000)]
    assert [round(each, 1) for each in shares] == [4.0, 4.6, 4.8]
    assert most_unseen(60, 60) == 0
    assert most_unseen(50, 1) == 47, "one of fifty: up to 47, which it misses in 3 of 50 cases"


def test_small_numbers_are_attacked_whole() -> None:
    assert [sample_size(each) for each in (0, 1, 60, 61, 349, 350, 9000)] == [0, 1, 60, 30, 30, 60, 60]


def test_the_draw_does_not_depend_on_other_images() -> None:
    images = np.arange(0, 900, 3)
    order = images[in_turn(images, 0)]
    fewer = np.sort(order[::2])
    assert fewer[in_turn(fewer, 0)].tolist() == order[::2].tolist()
    assert order.tolist() != sorted(order.tolist())
    assert images[in_turn(images, 1)].tolist() != order.tolist()
    firsts = [images[in_turn(images, seed)][0] for seed in range(300)]
    assert len(set(firsts)) > 150, "no image is drawn first under many seeds"


def test_an_audit_says_how_many_images_it_stands_for() -> None:
    table = audited()
    assert robust_accuracy(table, Linf, 0.1).value == 1
    assert waterfall(table, Linf, 0.1).still_correct == 80
    assert audits(table) == (Audit("long", "Linf", 0.1, 80, 30),)
    (found,) = audits(table)
    assert found.sentence == (
        f"long was run on 30 of the 80 images that nothing has broken, drawn by chance, and broke none: at most "
        f"{100 * most_unseen(80, 30) / 80:.1f} % more of these would fall to it (95 %)."
    )
    with pytest.raises(Unmeasured, match="30 of the 80 images"):
        accuracy(table, "long")
    assert any("long" in name for name in unmeasured(table))


def test_only_the_images_before_the_first_that_was_not_attacked_are_a_sample() -> None:
    """Images that were attacked for another reason, as before others were added, are none that chance took."""
    drawn = np.arange(80)[in_turn(np.arange(80), 0)].tolist()
    kept = [*drawn[:20], *drawn[25:40]]
    table = sampled(made(80, *(row(image, "long") for image in kept)))
    assert [each.sampled for each in audits(table)] == [20]
    broken = sampled(made(80, *(row(image, "long") for image in kept), row(drawn[3], "cascade", broken=True)))
    assert [(each.standing, each.sampled) for each in audits(broken)] == [(79, 19)]
    assert audits(sampled(made(80, *(row(image, "long") for image in drawn[1:20])))) == ()


def test_without_a_sample_a_missing_row_is_no_robust_image() -> None:
    table = made(80, *(row(image, "long") for image in range(30)))
    assert audits(table) == ()
    with pytest.raises(Unmeasured, match="was not run on 50 images"):
        robust_accuracy(table, Linf, 0.1)
    whole = sampled(made(80, *(row(image, "long") for image in range(80))))
    assert audits(whole) == ()
    assert rows(whole)["long"].sampled


def test_gradients_are_doubted_where_a_short_square_is_ahead() -> None:
    assert suspicions(made(9)) == ()
    assert suspicions(made(9, row(2, "short", margin=-0.9995))) == (), "by rounding"
    assert suspicions(made(9, row(2, "short", margin=-0.9))) == (
        "short reached a higher margin on 1 of the 9 images that gradient attacks had left.",
    )
    assert suspicions(made(9, row(2, "one step", margin=-0.8), row(2, "short", margin=-0.9))) == ()
    assert suspicions(made(9, row(2, "cascade", broken=True), row(2, "short", margin=-0.9))) == ()
    assert suspicions(made(9, row(2, "short", broken=True, margin=0.1))) == (
        "short broke 1 of the 9 images that gradient attacks had left.",
    )
    assert suspicions(made(9, *(row(image, "short", margin=nan) for image in range(9)))) == ()


def test_a_long_square_may_be_ahead_but_not_break_an_image() -> None:
    long = ("cascade", "one step", "short", "long")
    assert suspicions(made(9, row(2, "long", margin=-0.5), attacks=long)) == ()
    (found,) = suspicions(made(9, row(2, "long", broken=True, margin=0.5), attacks=long))
    assert found.startswith("long broke 1 of the 9")


def test_what_attacks_after_it_break_does_not_undo_a_suspicion() -> None:
    """Another gradient attack, which the suspicion led to, has broken the image since."""
    table = made(9, row(2, "short", margin=-0.9), attacks=("cascade", "short"))
    both = table + made(9, row(2, "one step", broken=True), attacks=("one step",))
    assert both.attacks == ("cascade", "short", "one step")
    assert suspicions(both) == suspicions(table) != ()


def test_gradients_are_doubted_where_one_was_zero_on_an_image_that_is_left() -> None:
    table = made(9, row(4, "cascade", flat=1), row(5, "cascade", flat=3, broken=True))
    assert suspicions(table) == ("A gradient was zero everywhere on 1 of the 8 images that cascade left.",)
    assert suspicions(made(9, row(5, "cascade", flat=3, broken=True))) == ()


def test_attacks_of_another_radius_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUN, "short", Square(eps=0.2, queries=200))
    assert suspicions(made(9, row(2, "short", broken=True, margin=0.5))) == ()

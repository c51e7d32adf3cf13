"""The waterfall against a loop over the rows, one image at a time."""

import math

import pytest
import torch
from torch import nn

from made_up import ATTACKS, cascade, made_up, of, table_of
from steelman.attacks import FGSM, PGD
from steelman.evaluation import evaluate
from steelman.measures import Unmeasured, robust_accuracy
from steelman.measures.waterfalls import Waterfall, waterfall
from steelman.norms import L2, Linf, Norm

ORDER = ["nearest", "weak", "small", "away", "grid", "strong"]


def in_order(rows: list[dict]) -> list[dict]:
    return [row for name in ("clean", *ORDER) for row in of(rows, name)]


def naive(rows: list[dict], norm: str, eps: float) -> dict[str, int]:
    """By step, how many images are broken at it; the rows are in the order of the attacks."""
    found: dict[str, int] = {}
    for image in {row["image"] for row in rows}:
        first = "still correct"
        for row in rows:
            if row["image"] != image:
                continue
            if row["clean_prediction"] != row["label"]:
                first = "wrong"
                break
            if row["attack"] != "clean" and row["prediction"] != row["label"] and row[norm] <= eps * (1 + 1e-5):
                first = row["attack"]
                break
        found[first] = found.get(first, 0) + 1
    return found


@pytest.mark.parametrize(("norm", "eps"), [(Linf, 0.1), (Linf, 0.05), (L2, 0.3), (Linf, 0.0), (L2, 9.0)])
def test_each_image_counts_for_the_first_attack_that_breaks_it_within_the_radius(norm: Norm, eps: float):
    rows = in_order(made_up())
    found, wanted = waterfall(table_of(rows), norm, eps), naive(rows, repr(norm).lower(), eps)
    assert found.natural_errors == wanted.pop("wrong")
    assert found.still_correct == wanted.pop("still correct", 0)
    assert {name: count for name, count in found.broken.items() if count} == wanted
    assert list(found.broken) == [name for name in ORDER if name in found.broken]
    assert found.natural_errors + sum(found.broken.values()) + found.still_correct == found.images == 41
    assert found.still_correct == round(41 * robust_accuracy(table_of(rows), norm, eps).value)
    bounded = [name for name in ORDER if ATTACKS[name][:2] == (repr(norm), eps)]
    assert set(bounded) <= set(found.broken), "an attack of this radius is listed though it broke no image"


def test_more_than_one_attack_breaks_images():
    assert sum(count > 0 for count in waterfall(table_of(in_order(made_up())), Linf, 0.1).broken.values()) > 3


def test_rows_that_a_cascade_left_out_change_nothing():
    rows = in_order(made_up())
    fewer = in_order(cascade(rows, ORDER))
    assert len(fewer) < len(rows)
    for norm, eps in ((Linf, 0.1), (Linf, 0.05)):
        assert waterfall(table_of(fewer), norm, eps) == waterfall(table_of(rows), norm, eps)


def test_an_attack_that_had_no_image_left_is_listed():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(6, 1, 2, 2)
    y = model(x).argmax(1)
    attacks = {"first": FGSM(eps=0.9), "second": PGD(eps=0.9, steps=2)}
    table = evaluate(model, (x, y), attacks, survivors_only=True)
    assert (table.attacks, table.without_rows) == (("first", "second"), ("second",)), "the first breaks all six"
    assert waterfall(table, Linf, 0.9) == Waterfall(Linf, 0.9, 6, 0, {"first": 6, "second": 0}, 0)


def test_a_table_that_was_cut_off_is_refused():
    rows = in_order(made_up(attacks=("clean", "weak", "strong")))
    fallen = {row["image"] for row in rows if row["prediction"] != row["label"]}
    standing = min({row["image"] for row in rows} - fallen)
    cut = [row for row in rows if (row["attack"], row["image"]) != ("strong", standing)]
    with pytest.raises(Unmeasured, match="strong was not run on 1 images"):
        waterfall(table_of(cut), Linf, 0.1)


def test_another_space_has_a_waterfall_of_its_own():
    rows = in_order(made_up(seed=1))
    assert waterfall(table_of(rows, space="preprocessed"), Linf, 0.1) == waterfall(table_of(rows), Linf, 0.1)


def test_bad_input_is_refused():
    rows = made_up()
    for eps in (-0.1, math.nan):
        with pytest.raises(ValueError, match="radius, at least 0"):
            waterfall(table_of(rows), Linf, eps)

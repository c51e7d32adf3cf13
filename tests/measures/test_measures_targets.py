"""Best, average and worst case over targets, against loops over rows and against what is known."""

import numpy as np
import pytest
import torch

from affine import affine
from made_up import made_up, record, table_of
from steelman.attacks import PGD, CarliniWagner, DeepFool, Towards, every_target
from steelman.evaluation import evaluate
from steelman.measures import Unmeasured, measures
from steelman.measures.measure import mean
from steelman.measures.targets import over_targets, target_size, target_success
from steelman.norms import L2, Linf

CASES = ("best", "average", "worst")


def rows_towards(count: int = 40, seed: int = 0, chance: float = 0.7) -> list[dict]:
    """Images of which some are wrong, and three targets that are reached by chance."""
    rng = np.random.default_rng(seed)
    rows = [row for row in made_up(count, seed) if row["attack"] == "clean"]
    clean = {row["image"]: row for row in rows}
    for offset in (1, 2):
        for row in clean.values():
            success, size = bool(rng.random() < chance), float(rng.random())
            prediction = (row["label"] + offset) % 3 if success else row["label"]
            rows.append(
                row
                | {"attack": f"A, target +{offset}", "run": Towards(CarliniWagner(steps=9), offset, 3)}
                | {"norm": "L2", "eps": float("nan"), "success": success, "prediction": prediction}
                | {"l2": size, "linf": size / 3}
            )
    return rows


def by_hand(rows: list[dict], case: str) -> tuple[float, float]:
    """Mean size and share of successes, by loops."""
    sizes: list[float] = []
    pairs = 0
    right = [row for row in rows if row["attack"] == "clean" and row["prediction"] == row["label"]]
    for clean in right:
        own = [row for row in rows if row["image"] == clean["image"] and row["attack"] != "clean"]
        won = [row["l2"] for row in own if row["success"]]
        pairs += len(own) if case == "average" else 1
        if case == "average":
            sizes += won
        elif case == "best" and won:
            sizes.append(min(won))
        elif case == "worst" and len(won) == len(own):
            sizes.append(max(won))
    return sum(sizes) / len(sizes), len(sizes) / pairs


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_each_case_is_that_of_a_loop_over_rows(case, seed: int) -> None:
    rows = rows_towards(seed=seed)
    found = measures(table_of(rows))
    size, success = found[f"{case} mean L2, A"], found[f"{case} success, A"]
    wanted = by_hand(rows, case)
    assert (size.value, success.value) == pytest.approx(wanted)
    assert success.kind == "share"
    assert size.kind == "length"
    assert size.count - size.failures == pytest.approx(success.value * size.count)
    for measure in (size, success):
        assert measure.low < measure.value < measure.high
    wide = target_size(table_of(rows), "A", case, Linf)
    assert wide.value == pytest.approx(wanted[0] / 3)


def test_an_attack_at_each_target_has_no_measures_of_its_own() -> None:
    """Of nine targets and many attacks there would be hundreds."""
    found = measures(table_of(rows_towards()))
    assert set(found) == {"clean accuracy"} | {f"{case} {what}, A" for case in CASES for what in ("mean L2", "success")}


def test_pairs_of_one_image_are_not_independent() -> None:
    """Were they, nine equal copies of each value would make the interval a third as wide."""
    rng = np.random.default_rng(0)
    values = rng.exponential(size=80)
    one, nine = mean(values), mean(9 * values, weights=np.full(80, 9))
    assert (nine.value, nine.low, nine.high) == pytest.approx((one.value, one.low, one.high))
    copies = mean(np.tile(values, 9))
    assert 2 * (copies.high - copies.low) < nine.high - nine.low < 4 * (copies.high - copies.low)


def test_images_without_a_success_do_not_count_in_a_mean() -> None:
    found = mean(np.array([2.0, 0.0, 4.0]), weights=np.array([1, 0, 3]))
    assert (found.value, found.count) == (1.5, 3)
    fewer = mean(np.array([2.0, 4.0]), weights=np.array([1, 3]))
    assert (found.low, found.high) == (fewer.low, fewer.high)


def test_what_cannot_be_measured_has_a_reason() -> None:
    rows = rows_towards()
    table = table_of(rows)
    with pytest.raises(Unmeasured, match="no attack B towards every wrong class"):
        over_targets(table, "B")
    failing = table_of(rows_towards(chance=-1.0))
    assert target_success(failing, "A", "best").value == 0
    with pytest.raises(Unmeasured, match="succeeded on none"):
        target_size(failing, "A", "average")
    half = [row for row in rows if row["attack"] != "A, target +2" or row["image"] % 2]
    with pytest.raises(Unmeasured, match="was run on"):
        target_size(table_of(half), "A", "best")
    wrong = [row | {"clean_prediction": (row["label"] + 1) % 3} for row in rows]
    with pytest.raises(Unmeasured, match="no image is right"):
        target_success(table_of(wrong), "A", "worst")
    assert record(rows[-1]).kind.endswith(":Towards")


def test_a_whole_evaluation_of_an_affine_model_gives_the_closed_form() -> None:
    """DeepFool with a target is exact on affine models without a box, and the sizes of all classes are known."""
    model = affine(1, images=20, classes=4)
    attacks = every_target({"DeepFool": DeepFool(box=None, overshoot=1e-4), "PGD": PGD(eps=0.05)}, 4)
    table = evaluate(model, (model.x, model.y), attacks, progress=False)  # pyright: ignore[reportArgumentType]
    sizes = model._sizes(L2)
    pairs = sizes[sizes.isfinite()].reshape(20, 3)
    found = measures(table)
    # A target's boundary with the label may lie behind that with a third class, so the targeted size is at least it.
    assert found["best mean L2, DeepFool"].value == pytest.approx(float(pairs.amin(1).mean()), rel=1e-3)
    assert found["average mean L2, DeepFool"].value >= float(pairs.mean()) * (1 - 1e-6)
    assert found["worst success, DeepFool"].value == 1
    runs = [
        attacks[f"PGD, target +{k}"].run(model, model.x, model.y, generator=torch.arange(20)).success for k in (1, 2, 3)
    ]
    assert abs(found["average success, PGD"].value - float(torch.stack(runs).double().mean())) <= 0.05
    assert found["average mean Linf, PGD"].value == pytest.approx(0.05, rel=1e-3)


def test_a_table_that_grows_by_one_attack_at_a_time_has_the_same_measures(tmp_path) -> None:
    model = affine(1, images=10, classes=3)
    data = (model.x, model.y)
    attacks = every_target({"DeepFool": DeepFool(), "PGD": PGD(eps=0.05)}, 3)
    whole = evaluate(model, data, attacks, progress=False)  # pyright: ignore[reportArgumentType]
    names = list(attacks)
    for some in (names[:2], names):
        grown = evaluate(
            model,  # pyright: ignore[reportArgumentType]
            data,
            {name: attacks[name] for name in some},
            progress=False,
            folder=tmp_path,
        )
        assert grown.attacks == tuple(some)
    assert measures(grown) == measures(whole)

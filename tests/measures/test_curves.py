"""Curves against closed forms, loops over hand-made tables, and numpy's interpolation; pictures against their data."""

import math

import numpy as np
import pytest

import made_up
from affine import affine
from steelman.attacks import FGSM, PGD, DeepFool
from steelman.evaluation import evaluate, reference_epsilon
from steelman.measures import (
    Axis,
    Line,
    Measure,
    Point,
    against,
    at_equal,
    by_time,
    clean_accuracy,
    convergence,
    curve,
    default_measure,
    named_measure,
    robust_accuracy,
    robustness_curve,
    success_rates,
)
from steelman.norms import L2, Linf
from steelman.report import Document, Entry, curves_chart, draw, training_charts
from steelman.table import Evaluation

CLEAN = np.array([0, 1, 0, 1, 1, 0, 0, 0])
"""Whether each of eight images is wrong unattacked."""


def table_of(attacks: dict[str, dict]) -> Evaluation:
    """Eight images of class 0, each attack with `wrong` images, and rows only where it has `attacked` them."""
    rows = []
    whole = np.ones(8, bool)
    for name, each in {"clean": {"wrong": CLEAN, "eps": 0.0}, **attacks}.items():
        for image in np.flatnonzero(each.get("attacked", whole)):
            wrong = int(each["wrong"][image])
            size = 0.0 if name == "clean" else float(each.get("size", np.full(8, each["eps"]))[image])
            rows.append(
                {"image": int(image), "attack": name, "run": each.get("run", name), "label": 0}
                | {"norm": each.get("norm", "Linf"), "eps": each["eps"], "reference": each.get("reference", "label")}
                | {"clean_prediction": int(CLEAN[image]), "prediction": wrong, "success": bool(wrong), "l0": 1.0}
                | {"l1": size, "l2": size, "linf": size, "x_l2": 1.0 + image, "x_linf": 1.0, "loss": 1.0}
                | {"forwards": 1, "gradients": 1, "seconds": 0.1}
            )
    return made_up.table_of(rows)


def pgd(steps: int, eps: float = 0.1, **more) -> PGD:
    return PGD(eps=eps, steps=steps, **more)


def wrong(*images: int) -> np.ndarray:
    return np.maximum(CLEAN, np.isin(np.arange(8), images))


@pytest.mark.parametrize("norm", [L2, Linf])
def test_on_an_affine_model_the_curve_is_the_distribution_of_margins(norm):
    model = affine(3, images=20)
    found = curve(evaluate(model, (model.x, model.y), [DeepFool(norm=norm, overshoot=1e-6, steps=20)]), norm)
    margins = model.nearest(norm).numpy()
    for radius in (0.0, *np.quantile(margins, [0.11, 0.37, 0.62, 0.93]), 2 * margins.max()):
        assert found.at(float(radius)) == pytest.approx((margins > radius * 1.00001).mean(), abs=1.01 / 20)
    assert np.abs(found.radius[1:] - np.sort(margins)).max() < 1e-4 * margins.max()


def test_a_curve_is_the_share_that_is_robust_at_every_radius():
    sizes = np.array([0.3, 0, 0.2, 0, 0, 0.5, 0.2, 0.9])
    other = np.array([0.1, 0, 0.7, 0, 0, 0.8, 0.3, 0.9])
    table = table_of(
        {
            "one": {"wrong": wrong(0, 2, 5, 6), "norm": "L2", "eps": math.nan, "size": sizes},
            "two": {"wrong": wrong(0, 5, 6), "norm": "L2", "eps": math.nan, "size": other},
        }
    )
    smallest = [0.1, 0, 0.2, 0, 0, 0.5, 0.2, math.inf]
    found = curve(table, L2)
    for radius in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.49, 0.5, 2.0):
        assert found.at(radius) == sum(size > radius for size in smallest) / 8
    assert found.points == ()
    assert curve(table, L2, ["one"]).at(0.25) == 3 / 8


@pytest.mark.parametrize("seed", range(4))
def test_no_point_contradicts_the_curve_which_is_the_robust_accuracy(seed: int):
    """A weak minimal attack, such as a short HopSkipJump, once had a line above the markers of bounded attacks."""
    table = made_up.table_of(made_up.made_up(seed=seed))
    for norm, radii in ((Linf, (0.0, 0.03, 0.05, 0.1, 0.3)), (L2, (0.0, 0.2, 0.5, 0.9, 3.0))):
        found = curve(table, norm)
        assert len(found.radius) > 1
        for radius in radii:
            assert found.at(radius) == pytest.approx(robust_accuracy(table, norm, radius).value)
        for name, eps, share in found.points:
            assert found.at(eps) <= share, name
    spared = made_up.table_of(
        [row for row in made_up.made_up(seed=seed) if row["attack"] != "weak" or row["image"] % 2]
    )
    assert len(curve(spared, Linf).radius) > 1


def test_a_perturbation_of_exactly_the_radius_counts_at_the_radius():
    sizes = np.array([0.1 * (1 + 3e-6), 0, 0, 0, 0, 0, 0, 0])
    table = table_of(
        {
            "near": {"wrong": wrong(5), "norm": "Linf", "eps": math.nan, "size": np.full(8, 0.7)},
            "edge": {"wrong": wrong(0), "eps": 0.1, "size": sizes},
        }
    )
    found = curve(table, Linf)
    assert found.at(0.1) == robust_accuracy(table, Linf, 0.1).value == 4 / 8


BOUNDED = {
    "weak": {"wrong": wrong(0), "eps": 0.1, "run": pgd(5)},
    "strong": {"wrong": wrong(0, 2, 6), "eps": 0.1, "run": pgd(20)},
    "far": {"wrong": wrong(0, 2, 5, 6), "eps": 0.3, "run": pgd(20, 0.3)},
}


def test_without_minimal_attacks_a_curve_is_points():
    found = curve(table_of(BOUNDED), Linf)
    assert (found.radius.tolist(), found.accuracy.tolist()) == ([0.0], [5 / 8])
    assert found.points == (("weak", 0.1, 4 / 8), ("strong", 0.1, 2 / 8), ("far", 0.3, 1 / 8))


def test_an_attack_on_survivors_has_the_point_of_all_attacks_up_to_it():
    met = {
        "weak": {**BOUNDED["weak"], "attacked": CLEAN == 0},
        "strong": {**BOUNDED["strong"], "attacked": wrong(0) == 0},
        "last": {"wrong": wrong(7), "eps": 0.1, "attacked": wrong(0, 2, 6) == 0},
    }
    found = curve(table_of(met), Linf)
    assert found.points == (("weak", 0.1, 4 / 8), ("strong", 0.1, 2 / 8), ("last", 0.1, 1 / 8))
    assert against(table_of(met), "steps") == {}, "strong has no accuracy of its own"


def test_accuracy_against_steps_joins_attacks_that_differ_in_nothing_else():
    more = {
        "other radius": {"wrong": wrong(2, 5, 6), "eps": 0.3, "run": pgd(40, 0.3)},
        "restarts": {"wrong": wrong(0), "eps": 0.1, "run": pgd(40, restarts=2)},
        "no call": {"wrong": wrong(0), "eps": 0.1, "run": "PGD(steps=3)"},
        "minimal": {"wrong": wrong(0), "eps": math.nan, "run": DeepFool(steps=5)},
        "from prediction": {"wrong": wrong(0), "eps": 0.1, "run": pgd(40), "reference": "prediction"},
        "minimal too": {"wrong": wrong(0, 5), "eps": math.nan, "run": DeepFool(steps=50)},
    }
    found = against(table_of({**BOUNDED, **more}), "steps")
    assert set(found) == {"PGD, eps=0.1", "PGD, eps=0.3"}
    line = found["PGD, eps=0.1"]
    assert [(point.x, point.y, point.name) for point in line.points] == [(5, 4 / 8, "weak"), (20, 2 / 8, "strong")]
    assert all(point.low < point.y < point.high for point in line.points)
    assert (line.across, line.up) == (Axis("steps"), Axis("accuracy", share=True))
    assert [point.y for point in found["PGD, eps=0.3"].points] == [1 / 8, 2 / 8]
    assert set(against(table_of({**BOUNDED, **more}), "restarts")) == set()


def test_success_rates_begin_with_the_natural_errors():
    attacks = {
        f"FGSM {eps}": {"wrong": wrong(*images), "eps": eps, "run": FGSM(eps=eps)}
        for eps, images in ((0.3, (0, 2, 5, 6)), (0.1, (0,)), (0.2, (0, 6)))
    }
    (line,) = success_rates(table_of(attacks)).values()
    assert [(point.x, point.y) for point in line.points] == [(0, 3 / 8), (0.1, 4 / 8), (0.2, 5 / 8), (0.3, 7 / 8)]
    assert clean_accuracy(table_of(attacks)).value == 1 - line.at(0.0)


LOG = [
    {"epoch": 0, "clean": 0.1},
    {"epoch": 1, "clean": 0.6, "seconds": 2.0, "loss": 1.5},
    {"epoch": 2, "seconds": 3.0, "loss": 1.25},
    {"epoch": 3, "clean": 0.8, "seconds": 2.5, "loss": 1.0},
    {"epoch": 4, "clean": math.nan, "seconds": 2.5, "loss": math.inf},
]


def test_logs_are_drawn_by_epoch_and_by_seconds_of_training():
    by_epoch, in_time = convergence(LOG, "clean"), by_time(LOG, "clean")
    assert by_epoch is not None
    assert in_time is not None
    assert [(point.x, point.y) for point in by_epoch.points] == [(0, 0.1), (1, 0.6), (3, 0.8)]
    assert [(point.x, point.y) for point in in_time.points] == [(0, 0.1), (2, 0.6), (7.5, 0.8)]
    assert in_time.at(2 + 5.5 / 2) == pytest.approx(0.7)
    assert (in_time.across.label, in_time.up.share) == ("training time, s", True)
    assert convergence(LOG, "robust") is None
    assert by_time([{"epoch": 0, "clean": 0.1}, {"epoch": 1, "clean": 0.6}], "clean") is None


RHO = Axis("rho_cw")


def line(points, up: Axis = RHO) -> Line:
    return Line(tuple(Point(*point) for point in points), Axis("clean accuracy", share=True), up)


def test_between_points_a_line_is_numpys_interpolation():
    rng = np.random.default_rng(0)
    xs, ys = rng.random(9), rng.random(9)
    found = line(zip(xs.tolist(), ys.tolist(), strict=True))
    order = np.argsort(xs)
    for x in np.linspace(xs.min(), xs.max(), 33):
        assert found.at(float(x)) == pytest.approx(np.interp(x, xs[order], ys[order]))
    for outside in (xs.min() - 1e-9, xs.max() + 1e-9, math.nan):
        with pytest.raises(
            ValueError, match=r"clean accuracy .* lies outside of the points, which reach from 0\.\d+ to"
        ):
            found.at(outside)


def test_of_several_points_at_one_x_the_highest_counts():
    found = line([(0.5, 1.0), (0.7, 0.2), (0.7, 0.8), (0.9, 0.4)])
    assert (found.at(0.7), found.at(0.6), found.at(0.8)) == pytest.approx((0.8, 0.9, 0.6))
    assert len(found.points) == 4


def test_lines_refuse_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="at least one point"):
        line([])
    with pytest.raises(ValueError, match=r"c=5 is at \(0.9, inf\)"):
        line([(0.9, math.inf, None, None, "c=5")])


def test_curves_are_compared_at_equal_clean_accuracy():
    rng = np.random.default_rng(1)
    ours = line(zip(np.sort(rng.uniform(0.5, 0.9, 7)).tolist(), rng.random(7).tolist(), strict=True))
    theirs = line(zip(np.sort(rng.uniform(0.6, 0.95, 5)).tolist(), rng.random(5).tolist(), strict=True))
    found = at_equal(ours, theirs)
    low, high = max(ours.points[0].x, theirs.points[0].x), min(ours.points[-1].x, theirs.points[-1].x)
    assert (found.x[0], found.x[-1]) == (low, high)
    for x, a, b in zip(found.x, found.ours, found.theirs, strict=True):
        assert (a, b) == (ours.at(x), theirs.at(x))
    dense = np.linspace(low, high, 20_001)
    gaps = np.subtract(*(np.interp(dense, *np.transpose([(p.x, p.y) for p in each.points])) for each in (ours, theirs)))
    assert found.mean == pytest.approx(gaps.mean(), abs=1e-4)
    one = at_equal(line([(0.5, 1.0), (0.6, 0.5)]), line([(0.6, 0.25), (0.7, 0.1)]))
    assert (one.x, one.differences, one.mean) == ((0.6,), (0.25,), 0.25)
    with pytest.raises(ValueError, match=r"no clean accuracy in common: one has 0.5 to 0.6, the other 0.7 to 0.8"):
        at_equal(line([(0.5, 1.0), (0.6, 0.5)]), line([(0.7, 1.0), (0.8, 0.5)]))
    with pytest.raises(ValueError, match="cannot be compared with rho_2"):
        at_equal(ours, line([(0.6, 1.0)], Axis("rho_2")))


def measures_of(clean: float, **more: float) -> dict[str, Measure]:
    found = {"clean accuracy": Measure(clean, clean - 0.02, clean + 0.01, 100)}
    for name, value in more.items():
        kind = "length" if name.startswith("rho") else "share"
        found[name.replace("__", ", ").replace("_cw", "_cw, C&W")] = Measure(value, value - 0.1, value + 0.1, 100, kind)
    return found


MODELS = {
    "5": measures_of(0.9, rho_cw=1.5, accuracy__a=0.5, accuracy__b=0.3),
    "20": measures_of(0.8, rho_cw=1.9, accuracy__a=0.6, accuracy__b=0.5, other=1.0),
    "10": measures_of(0.85, rho_cw=1.8, accuracy__a=0.7, accuracy__b=0.4),
}


def test_a_robustness_curve_has_a_point_per_model_in_order_of_clean_accuracy():
    found = robustness_curve(MODELS, "rho_cw, C&W")
    assert [(point.name, point.x, point.y) for point in found.points] == [
        ("20", 0.8, 1.9),
        ("10", 0.85, 1.8),
        ("5", 0.9, 1.5),
    ]
    assert (found.points[0].low, found.points[0].high) == (1.9 - 0.1, 1.9 + 0.1)
    assert found.at(0.875) == pytest.approx(1.65)
    assert (found.up.share, robustness_curve(MODELS, "accuracy, a").up.share) == (False, True)
    with pytest.raises(ValueError, match="5 has no measure 'other'; all of the models have rho_cw, C&W, accuracy, a"):
        robustness_curve(MODELS, "other")
    with pytest.raises(ValueError, match="at least one model"):
        robustness_curve({}, "rho_cw")


def test_a_measure_is_named_by_its_beginning_or_chosen():
    assert named_measure(MODELS, "rho") == "rho_cw, C&W"
    assert named_measure(MODELS, "accuracy, a") == "accuracy, a"
    with pytest.raises(ValueError, match="several measures begin with 'accuracy'"):
        named_measure(MODELS, "accuracy")
    with pytest.raises(ValueError, match="no measure begins with 'other'; all of the models have rho_cw"):
        named_measure(MODELS, "other")
    assert default_measure(MODELS) == "accuracy, b", "the last attack is the strongest"
    assert default_measure({"a": measures_of(0.9, rho_cw=1.0), "b": measures_of(0.8, rho_cw=2.0)}) == "rho_cw, C&W"
    assert default_measure({"a": measures_of(0.9, rho_cw=math.inf)}) is None
    assert default_measure(
        {"a": {**measures_of(0.9, accuracy__x=0.2), "robust accuracy, Linf 0.1": Measure(0.1, 0.0, 1.0, 9)}}
    ) == ("robust accuracy, Linf 0.1")


def drawn(axes, name: str) -> list[tuple[float, float]]:
    """The line of that name, as a picture has it."""
    (found,) = [each for each in axes.get_lines() if each.get_label().lstrip("\u200b") == name]
    return [tuple(pair) for pair in np.asarray(found.get_xydata()).tolist()]


def test_a_curve_and_its_attacks_are_drawn_together():
    sizes = np.array([0.3, 0, 0.2, 0, 0, 0.5, 0.2, 0.9])
    table = table_of({"near": {"wrong": wrong(0, 2, 5), "norm": "Linf", "eps": math.nan, "size": sizes}, **BOUNDED})
    found = curve(table, Linf)
    (axes,) = draw(curves_chart({"model": found})).axes
    assert drawn(axes, "model")[:3] == [(0, 5 / 8), (0.1, 2 / 8), (0.3, 1 / 8)]
    assert sorted(drawn(axes, "_model")) == [(0.1, 2 / 8), (0.1, 4 / 8), (0.3, 1 / 8)]


def test_all_pictures_of_two_models_are_there_under_their_names():
    attacks = {f"FGSM {eps}": {"wrong": wrong(0), "eps": eps, "run": FGSM(eps=eps)} for eps in (0.1, 0.2, 0.3)}
    table = table_of({**BOUNDED, **attacks})
    found = Document([Entry("one", table, LOG), Entry("two", table)]).charts
    assert set(found) == {
        "robustness", "curve-linf", "steps-PGD", "success-FGSM", "convergence-clean", "convergence-loss", "time-clean",
    }  # fmt: skip
    assert all(chart.about for chart in found.values())
    assert "robustness" not in Document([Entry("one", table, LOG)]).charts
    (axes,) = draw(training_charts({"one": LOG})["loss"]).axes
    assert drawn(axes, "one") == [(1, 1.5), (2, 1.25), (3, 1)]


def test_a_model_that_is_attacked_by_several_step_counts_has_its_curve():
    model = affine(1, images=30)
    attacks = [PGD(eps=0.05, steps=steps, step_size=0.01, random_start=False) for steps in (1, 2, 6)]
    (found,) = against(evaluate(model, (model.x, model.y), attacks, progress=False), "steps").values()
    for point, attack in zip(found.points, attacks, strict=True):
        reach = min(attack.steps * 0.01, 0.05)
        assert point.y >= (model.nearest(Linf) > reach).double().mean() - 1e-9, "these cannot have been broken"
    assert found.points[0].y > found.points[-1].y


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.nan])
def test_a_tolerance_that_bisection_cannot_reach_is_refused(tolerance: float):
    model = affine(0, images=2)
    with pytest.raises(ValueError, match=f"at least 1e-9; got {tolerance}"):
        reference_epsilon(model, (model.x, model.y), tolerance=tolerance)

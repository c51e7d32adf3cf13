"""Pictures have the data of their charts, and names that hide nothing."""

import math

import numpy as np
import pytest

from steelman.evaluation import StepCurve
from steelman.measures import Axis, Line, Measure, Point, robustness_curve
from steelman.report import draw, lines_chart, robustness_chart

RHO = Axis("rho_cw")


def line(points, up: Axis = RHO) -> Line:
    return Line(tuple(Point(*point) for point in points), Axis("clean accuracy", share=True), up)


def measures_of(clean: float, robust: float, name: str = "rho_cw, C&W", kind: str = "length") -> dict[str, Measure]:
    return {
        "clean accuracy": Measure(clean, clean - 0.01, clean + 0.01, 9),
        name: Measure(robust, robust - 0.1, robust + 0.1, 9, kind),
    }


def drawn(axes, name: str) -> list[tuple[float, float]]:
    """The line of that name, as a picture has it."""
    (found,) = [each for each in axes.get_lines() if each.get_label().lstrip("\u200b") == name]
    return [tuple(pair) for pair in np.asarray(found.get_xydata()).tolist()]


def test_a_picture_has_the_data_and_labels_of_its_lines():
    points = {"c=1": (0.8, 0.6), "c=2": (0.9, 0.5), "c=3": (0.85, 0.7)}
    models = {name: measures_of(*point, "accuracy, a", "share") for name, point in points.items()}
    lines = {
        "plain": robustness_curve(models, "accuracy, a"),
        "none": None,
        "b": line([(0.7, 0.5)], Axis("accuracy, a", True)),
    }
    figure = draw(lines_chart(lines, "PGD"))
    (axes,) = figure.axes
    assert drawn(axes, "plain") == pytest.approx([(0.8, 0.6), (0.85, 0.7), (0.9, 0.5)])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("clean accuracy", "accuracy, a")
    assert figure.get_label() == "Accuracy, a by clean accuracy, PGD"
    assert len(axes.collections) == 3, "an error bar for each point that has an interval"
    looks = [(each.get_color(), each.get_marker()) for each in axes.get_lines()]
    assert len(set(looks)) == 2
    assert draw(lines_chart({"b": lines["plain"]})).axes[0].get_lines()[0].get_color() == looks[0][0]
    with pytest.raises(ValueError, match="one pair of quantities; got accuracy, a against clean accuracy and rho_cw"):
        lines_chart({"a": lines["plain"], "b": line([(0.7, 0.5)])})
    with pytest.raises(ValueError, match="got none"):
        lines_chart({"a": None})


def test_an_infinite_end_of_an_interval_is_drawn_as_far_as_the_picture_goes():
    points = (Point(0.5, 0.1, 0.0, math.inf), Point(0.9, 0.2, 0.1, 0.3))
    chart = robustness_chart({"a": Line(points, Axis("clean accuracy", True), Axis("rho_cw"))})
    (series,) = chart.series
    assert series is not None
    assert series.bars == ((0.5, 0.0, 0.3), (0.9, 0.1, 0.3))
    assert np.isfinite(draw(chart).axes[0].get_ylim()).all()


def test_steps_over_a_wide_range_are_on_a_logarithmic_axis():
    wide = Line(tuple(Point(float(x), 1 / x) for x in (5, 10, 20, 100)), Axis("steps"), Axis("accuracy", share=True))
    axes = draw(lines_chart({"PGD": wide})).axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xticks().tolist() == [5, 10, 20, 100]


def test_names_of_points_hide_neither_each_other_nor_leave_the_picture():
    models = {f"c={value}": measures_of(0.9 + value / 4000, 1 + 0.02 * math.sin(value)) for value in range(1, 12)}
    figure = draw(robustness_chart({"PGN": robustness_curve(models, "rho_cw, C&W")}))
    (axes,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert {text.get_text().lstrip("\u200b") for text in axes.texts} == set(models)
    assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_a_legend_of_many_or_long_names_is_below_the_picture():
    few, many = ({f"model {place}": line([(0.7, place / 10)]) for place in range(count)} for count in (3, 11))
    long = {"a model the name of which is rather long, and then some more of it, to no end": line([(0.7, 0.5)])}
    assert not draw(lines_chart(few)).legends
    for lines in (many, long):
        figure = draw(lines_chart(lines))
        figure.draw_without_rendering()
        (legend,), (axes,) = figure.legends, figure.axes
        box, frame = legend.get_window_extent(), figure.bbox
        assert box.y1 < axes.xaxis.label.get_window_extent().y0
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        looks = {(each.get_color(), each.get_marker()) for each in axes.get_lines()}
        assert len(looks) == len(lines)


def test_losses_by_step_are_drawn_with_their_deviation():
    losses = np.array([0.5, 1.0, 1.25])
    found = StepCurve(losses, losses - 0.1, np.array([0.0, 0.25, 0.5]), np.array([0.9, 0.5, 0.4]), np.zeros(3))
    assert [(p.x, p.y, p.low, p.high) for p in found.losses.points][2] == (2, 1.25, 0.75, 1.75)
    assert [(p.x, p.y) for p in found.accuracies.points] == [(0, 0.9), (1, 0.5), (2, 0.4)]
    assert drawn(draw(lines_chart({"PGD": found.losses})).axes[0], "PGD") == [(0, 0.5), (1, 1), (2, 1.25)]

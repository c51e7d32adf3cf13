"""Texts in a picture: names beside points, which hide neither each other nor a line, and captions."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import matplotlib.axes

INK = "#1A1B1C"
DISTANCES = (7.0, 12.0, 19.0)
DIRECTIONS = 16


def place_names(axes: "matplotlib.axes.Axes", names: Sequence[tuple[float, float, str]]) -> None:
    """Write each name (x, y, text) near its point, where it covers least; matplotlib alone does not move text.

    In sequence, each is put where the fewest names, markers and pieces of line are under it, of some places around its
    point; the nearest of equals.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # positions are known once the layout is done
    bars = [path.vertices for each in axes.collections for path in each.get_paths()]
    shown = [np.asarray(points, float) for points in (*(line.get_xydata() for line in axes.get_lines()), *bars)]
    taken = np.concatenate([_along(axes.transData.transform(points)) for points in shown])
    frame = np.array(axes.get_window_extent().extents)
    dots = figure.dpi / 72
    boxes: list[tuple[float, float, float, float]] = []
    for x, y, text in names:
        note = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize=9, color=INK)
        note.set_in_layout(False)
        size = note.get_window_extent()
        half = np.array([size.width, size.height]) / 2
        at = axes.transData.transform((x, y))
        best = None
        for distance in DISTANCES:
            for turn in range(DIRECTIONS):
                angle = math.pi / 4 + 2 * math.pi * turn / DIRECTIONS
                way = np.array([math.cos(angle), math.sin(angle)])
                # The nearer end of the text, not its middle, is so far from the point.
                middle = at + way * (distance * dots + half * np.abs(way))
                box = (*(middle - half), *(middle + half))
                cost = _cost(box, boxes, taken, frame)
                if best is None or cost < best[0]:
                    best = cost, box
        assert best is not None
        boxes.append(best[1])
        note.set_position(((best[1][0] - at[0]) / dots, (best[1][1] - at[1]) / dots))


def _cost(box: tuple[float, ...], boxes: Sequence[tuple[float, ...]], taken: np.ndarray, frame: np.ndarray) -> float:
    left, low, right, high = box
    cost = 100.0 * sum(left < b[2] and b[0] < right and low < b[3] and b[1] < high for b in boxes)
    cost += float(((taken > (left - 2, low - 2)) & (taken < (right + 2, high + 2))).all(1).sum())
    return cost + 1000.0 * (left < frame[0] or low < frame[1] or right > frame[2] or high > frame[3])


def _along(points: np.ndarray) -> np.ndarray:
    """Points of a line, closely enough that no text fits between two of them."""
    if len(points) < 2:
        return points
    parts = [
        np.linspace(before, after, 2 + int(np.hypot(*(after - before)) // 4)) for before, after in pairwise(points)
    ]
    return np.concatenate(parts)


def headed(text: str) -> str:
    """With a capital, but for Greek letters, which would be others."""
    return text[:1].upper() + text[1:] if text[:1].isascii() else text

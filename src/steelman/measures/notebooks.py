"""What notebooks show of tables, curves and comparisons."""

import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.util import find_spec
from typing import Any

from steelman.measures.accuracies import accuracy, clean_accuracy, robust_accuracy, success_rate, threats
from steelman.measures.distances import median_norm
from steelman.measures.measure import Measure, Unmeasured
from steelman.norms import NORMS
from steelman.table.records import CLEAN
from steelman.table.table import Evaluation

MOST = 40
"""Attacks that are shown of a table; the others are counted."""


def evaluation_html(evaluation: Evaluation) -> str:
    """A line per attack: accuracy, success rate, median size; and one per norm and radius: the worst case of all."""
    lines = [(CLEAN, "", _text(clean_accuracy, evaluation), "", "")]
    for name in evaluation.attacks[:MOST]:
        record = evaluation.record(name)
        threat = f"{record.norm or ''} {record.eps:.4g}" if record.eps is not None else f"smallest {record.norm or ''}"
        shares = (_text(accuracy, evaluation, name), _text(success_rate, evaluation, name))
        size = "" if record.bounded or record.norm is None else _text(median_norm, evaluation, name)
        lines.append((name, threat, *shares, size))
    if (more := len(evaluation.attacks) - MOST) > 0:
        lines.append((f"and {more} attacks more", "", "", "", ""))
    for (norm, eps), names in threats(evaluation).items():
        if len(names) > 1 or len(evaluation.attacks) > 1:
            worst = _text(robust_accuracy, evaluation, NORMS[norm], eps)
            lines.append(("worst case of all attacks", f"{norm} {eps:.4g}", worst, "", ""))
    head = ("attack", "within", "accuracy", "success rate", "median size")
    caption = f"{evaluation.images} images, {evaluation.space}; in brackets 95 % intervals"
    return table_html(caption, head, lines)


def table_html(caption: str, head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table of texts in HTML."""
    rows = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in line)}</tr>" for line in lines)
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"


def png(
    x: Sequence[float], y: Sequence[float], labels: tuple[str, str], step: bool = False, marks: Sequence[Any] = ()
) -> bytes | None:
    """One line as a picture, with marks (x, y, low or None, high or None); None where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure, picture = Figure(figsize=(5.2, 3.2), layout="constrained"), io.BytesIO()
    axes = figure.add_subplot()
    axes.plot(x, y, drawstyle="steps-post" if step else "default")
    for across, up, low, high in marks:
        axes.plot([across], [up], "o", color="C0", markersize=4)
        if low is not None and high is not None:
            axes.vlines(across, low, high, color="C0", alpha=0.35)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, format="png", dpi=96)
    return picture.getvalue()


def _text(measure: Callable[..., Measure], evaluation: Evaluation, *arguments: Any) -> str:
    """A measure with its interval, or a dash where the table cannot give it."""
    try:
        return str(measure(evaluation, *arguments))
    except Unmeasured:
        return "–"


Evaluation.in_notebooks = staticmethod(evaluation_html)

"""A table as papers print it, each number with its interval: as Markdown, CSV, LaTeX and in a terminal."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TypeAlias

from steelman.measures.measure import Measure

if TYPE_CHECKING:
    import rich.console

Cell: TypeAlias = Measure | float | None
"""A measure, a number that has no interval, or nothing where it was not measured."""

SYMBOLS = {
    "rho_2": ("ρ₂", r"$\rho_2$"),
    "rho_inf": ("ρ∞", r"$\rho_\infty$"),
    "rho_cw": ("ρ_cw", r"$\rho_{cw}$"),
    "l_2": ("ℓ₂", r"$\ell_2$"),
    "eps_ref": ("ε_ref", r"$\epsilon_{ref}$"),
}
"""Names that are printed as symbols: in plain text, in LaTeX."""

NARROWEST = 9
"""Characters of a column in a terminal, at least."""

BOLD = "Bold: the best of a column, and all whose 95 % intervals overlap its interval; none where all do."


@dataclass(frozen=True)
class TableColumn:
    """A column's label, the `group` that it shares with its neighbours, and which end of it is better."""

    label: str
    group: str = ""
    better: Literal["higher", "lower"] | None = "higher"

    def __str__(self) -> str:
        return f"{self.group} {self.label}".strip()


@dataclass(frozen=True)
class PaperTable:
    """Rows of numbers under named columns; `corner` names the rows, `notes` explain the columns, a line each.

    In a column, the best number is bold, and with it every other whose 95 % interval overlaps the best one's. Where
    that is the whole column, nothing is.
    """

    caption: str
    corner: str
    columns: tuple[TableColumn, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def bold(self) -> tuple[tuple[bool, ...], ...]:
        """The cells that are the best of their columns, or whose intervals overlap the best one's."""
        columns = [
            _best(values, column.better)
            for column, values in zip(self.columns, zip(*self.cells, strict=True), strict=True)
        ]
        return tuple(zip(*columns, strict=True)) if columns else tuple(() for _ in self.rows)

    def markdown(self) -> str:
        """A pipe table, and the caption and notes above it."""
        head = [self.corner, *map(str, self.columns)]
        lines = [[md(_symbols(name)) for name in head], ["---", *("---:" for _ in self.columns)]]
        for name, cells in self._texts("**{}**"):
            shown = (f"{text} {_interval(cell)}{_failed(cell)}".strip() for text, cell in cells)
            lines.append([md(_symbols(name)), *shown])
        notes = "".join(f"- {md(note)}\n" for note in self.notes)
        above = f"{md(self._caption())}\n\n" + (f"{notes}\n" if notes else "")
        return above + "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """One line per row; per column its value and, where it is a measure, the ends of its interval."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        ends = ("", " low", " high")
        writer.writerow([self.corner, *(f"{column}{end}" for column in self.columns for end in ends)])
        for name, cells in zip(self.rows, self.cells, strict=True):
            numbers = (_numbers(cell) for cell in cells)
            writer.writerow([name, *("" if each is None else each for three in numbers for each in three)])
        return text.getvalue()

    def latex(self, intervals: bool = True) -> str:
        """A `table` for the package booktabs; without `intervals`, as papers mostly print it."""
        head = []
        if any(column.group for column in self.columns):
            spans, rules, place = [], [], 2
            for group, members in groupby(self.columns, key=lambda column: column.group):
                width = len(list(members))
                spans.append(rf"\multicolumn{{{width}}}{{c}}{{{_tex(group)}}}" if group else "& " * (width - 1))
                rules += [rf"\cmidrule(lr){{{place}-{place + width - 1}}}"] if group else []
                place += width
            head = [rf" & {' & '.join(spans)} \\", " ".join(rules)]
        head.append(rf"{' & '.join(_tex(each) for each in (self.corner, *(c.label for c in self.columns)))} \\")
        body = []
        for name, cells in self._texts(r"\textbf{{{}}}", _tex):
            ends = [_tex(_interval(cell)) if intervals else "" for _, cell in cells]
            shown = (
                rf"{text} {{\scriptsize {end}}}" if end else text for (text, _), end in zip(cells, ends, strict=True)
            )
            body.append(rf"{' & '.join([_tex(name), *shown])} \\")
        lines = [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(' '.join([self._caption(intervals), *self.notes]))}}}",
            rf"\begin{{tabular}}{{l{'r' * len(self.columns)}}}",
            r"\toprule",
            *head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def __rich_console__(
        self, console: "rich.console.Console", options: "rich.console.ConsoleOptions"
    ) -> "Iterator[rich.console.RenderableType]":
        """In a terminal, columns that do not fit follow below, under the same rows."""
        from rich.text import Text

        width = options.max_width
        rows = max(len(name) for name in (self.corner, *self.rows))
        first = min(rows, max(width // 3, width - 2 * (NARROWEST + 2)))
        blocks: list[list[tuple[int, int]]] = [[]]
        for place, column in enumerate(self.columns):
            words = min(max(NARROWEST, *map(len, str(column).split())), 2 * NARROWEST)  # it breaks between words only
            each = max(words, *(len(_ends(row[place])) for row in self.cells))
            if blocks[-1] and sum(other + 2 for _, other in (*blocks[-1], (place, each))) > width - first:
                blocks.append([])
            blocks[-1].append((place, each))
        yield Text(self._caption(), style="italic")
        yield from (Text(note, style="dim") for note in self.notes)
        for block in blocks:
            yield Text()
            yield self._block(first, block)

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def transposed(self, corner: str) -> "PaperTable":
        """Rows as columns, of which none is better than another."""
        columns = tuple(TableColumn(name, better=None) for name in self.rows)
        rows = tuple(f"{each.group}, {each.label}" if each.group else each.label for each in self.columns)
        return PaperTable(self.caption, corner, columns, rows, tuple(zip(*self.cells, strict=True)), self.notes)

    def _block(self, first: int, places: Sequence[tuple[int, int]]) -> "rich.console.RenderableType":
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
        table.add_column(Text(self.corner), overflow="fold", width=first)
        for place, width in places:
            name = Text(_symbols(str(self.columns[place])))
            table.add_column(name, justify="right", width=width, overflow="fold")
        for (name, cells), bold in zip(self._texts(), self.bold(), strict=True):
            shown = []
            for place, _ in places:
                text, cell = cells[place]
                ends = f"\n{_ends(cell)}" if _ends(cell) else ""
                shown.append(Text(text, style="bold" if bold[place] else "").append(ends, style="not bold dim"))
            table.add_row(Text(_symbols(name)), *shown)
        return table

    def _texts(
        self, bold: str = "{}", escaped: Callable[[str], str] = str
    ) -> Iterator[tuple[str, list[tuple[str, Cell]]]]:
        """By row, its name and its cells, each with the number as text; the best in the form `bold`."""
        for name, cells, best in zip(self.rows, self.cells, self.bold(), strict=True):
            texts = (escaped(_value(cell) + (" %" if self._mixed and _is_share(cell) else "")) for cell in cells)
            marked = (bold.format(text) if each else text for text, each in zip(texts, best, strict=True))
            yield name, list(zip(marked, cells, strict=True))

    @cached_property
    def _mixed(self) -> bool:
        """Whether a column holds shares and other numbers, so that each share needs a percent sign."""
        columns = zip(*self.cells, strict=True)
        return any(len({_is_share(cell) for cell in each if isinstance(cell, Measure)}) > 1 for each in columns)

    def _caption(self, intervals: bool = True) -> str:
        measures = [cell for row in self.cells for cell in row if isinstance(cell, Measure)]
        parts = [self.caption] if self.caption else []
        parts += ["Shares of images in %."] if not self._mixed and any(m.kind == "share" for m in measures) else []
        parts += ["In brackets, 95 % intervals."] if measures and intervals else []
        parts += [BOLD] if any(map(any, self.bold())) else []
        return " ".join(parts)


def _best(cells: Sequence[Cell], better: Literal["higher", "lower"] | None) -> list[bool]:
    sign = -1 if better == "lower" else 1
    three = [tuple(sorted(sign * number for number in _numbers(cell) if number is not None)) for cell in cells]
    some = [numbers for numbers in three if numbers]
    if better is None or len(cells) < 2 or not some:
        return [False] * len(cells)
    values = [None if cell is None else sign * float(_numbers(cell)[0] or 0.0) for cell in cells]
    top = max(value for value in values if value is not None)
    lowest = min(numbers[0] for numbers, value in zip(three, values, strict=True) if value == top)
    best = [bool(numbers) and numbers[-1] >= lowest for numbers in three]
    return [False] * len(cells) if sum(best) == len(some) else best


def _numbers(cell: Cell) -> tuple[float | None, float | None, float | None]:
    """Value and ends of the interval, as far as there are any."""
    if isinstance(cell, Measure):
        return cell.value, cell.low, cell.high
    return cell, None, None


def _is_share(cell: Cell) -> bool:
    return isinstance(cell, Measure) and cell.kind == "share"


def _value(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, Measure) and cell.kind == "share":
        return f"{100 * cell.value:.2f}"
    return _short(cell.value if isinstance(cell, Measure) else cell, 4)


def _interval(cell: Cell) -> str:
    if not isinstance(cell, Measure):
        return ""
    if cell.kind == "share":
        return f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
    return f"[{_short(cell.low, 3)}, {_short(cell.high, 3)}]"


def _ends(cell: Cell) -> str:
    return _interval(cell).strip("[]").replace(", ", "–")


def _short(number: float, digits: int) -> str:
    return f"{number:.{digits}g}" if math.isfinite(number) else "∞" if number > 0 else "–∞" if number < 0 else "nan"


def _failed(cell: Cell) -> str:
    return f", {cell.failures} of {cell.count} failed" if isinstance(cell, Measure) and cell.failures else ""


def _symbols(text: str) -> str:
    for name, (shown, _) in SYMBOLS.items():
        text = re.sub(rf"(?<!\w){name}(?!\w)", shown, text)
    return text


def md(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"[\\`*|<>\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))


TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "∞": r"$\infty$",
    "–": "--",
    **{each: rf"\{each}" for each in "&%$#_{}"},
}


def _tex(text: str) -> str:
    """Text that LaTeX shows as it is; names of `SYMBOLS` become mathematics."""
    parts = re.split(rf"(?<!\w)({'|'.join(SYMBOLS)})(?!\w)", " ".join(text.split()))
    return "".join(
        SYMBOLS[part][1] if part in SYMBOLS else "".join(TEX.get(each, each) for each in part) for part in parts
    )

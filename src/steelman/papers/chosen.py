"""Which tables, figures, rows and columns of a paper are asked for, and the networks and evaluations that they need."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from steelman.naming import nearest
from steelman.papers.paper import Cell, Figure, Network, Paper, Row, Table

Wanted: TypeAlias = tuple[Network, str | None, str]
"""A network, the evaluation that measures it (none where its log is enough), and the measure, where it is one."""


@dataclass(frozen=True)
class Part:
    """What is asked for of a paper; default all.

    tables, figures  names; where only the one kind is named, none of the other
    rows             a pattern such as "MNIST*" of what stands before a row: data set, network and name
    columns          a pattern of the headings of columns
    """

    tables: Sequence[str] = ()
    figures: Sequence[str] = ()
    rows: str = ""
    columns: str = ""

    def has(self, row: Row) -> bool:
        return _fits(heading(row), self.rows)

    def cells(self, table: Table, row: Row) -> list[tuple[str, Cell]]:
        """The cells of a row, with the headings of their columns."""
        pairs = zip(table.columns, row.cells, strict=True)
        return [(head, cell) for head, cell in pairs if _fits(head, self.columns)]


WHOLE = Part()


def wanted(paper: Paper, part: Part = WHOLE) -> Iterator[Wanted]:
    """The networks and evaluations of what is asked for, in printed order.

    Raises:
        ValueError: no such table or figure; no row or no column fits its pattern.
    """
    tables, figures = shown(paper, part)
    for what, pattern, known in (
        ("row", part.rows, {heading(row) for table in tables for row in table.rows}),
        ("column", part.columns, {head for table in tables for head in table.columns}),
    ):
        if not any(_fits(head, pattern) for head in known) and pattern:
            raise ValueError(f"no {what} fits {pattern!r}; {nearest(pattern, known)}")
    for table in tables:
        for row in filter(part.has, table.rows):
            for _, cell in part.cells(table, row):
                if cell.network is not None:
                    yield cell.network, cell.evaluation or None, cell.measure
    for figure in () if part.rows or part.columns else figures:
        for panel in figure.panels:
            evaluation = None if figure.kind == "images" else panel.evaluation or None
            for networks in panel.curves.values():
                yield from ((network, evaluation, "") for network in networks)


def heading(row: Row) -> str:
    """What stands before a row."""
    return " ".join(str(each) for each in (*row.facts.values(), row.name))


def shown(paper: Paper, part: Part) -> tuple[list[Table], list[Figure]]:
    """The tables and figures that are asked for.

    Raises:
        ValueError: there is no such table or figure.
    """
    return (
        _chosen("table", part.tables, paper.tables, bool(part.figures)),
        _chosen("figure", part.figures, paper.figures, bool(part.tables)),
    )


def _fits(head: str, pattern: str) -> bool:
    return not pattern or fnmatchcase(head.lower(), pattern.lower())


def _chosen(kind: str, asked: Sequence[str], known: Mapping[str, Any], others: bool) -> list[Any]:
    """Those asked for; all, where neither these nor the others are asked for by name."""
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(f"there is no {kind} {unknown[0]}; {nearest(unknown[0], known)}")
    return [known[name] for name in asked] if asked else [] if others else list(known.values())

"""Which tables, figures and rows of a paper are asked for, and the networks and evaluations that they need."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from steelman.naming import nearest
from steelman.papers.paper import Network, Paper, Row, Table

Wanted: TypeAlias = tuple[Network, str | None, str]
"""A network, the evaluation that measures it (none where its log is enough), and the measure, where it is one."""


def wanted(paper: Paper, tables: Sequence[str] = (), figures: Sequence[str] = (), rows: str = "") -> Iterator[Wanted]:
    """The networks and evaluations of the chosen tables and figures (default: all), in printed order.

    rows  a pattern such as "MNIST*" of what stands before a row: data set, network and name, with spaces between them

    Raises:
        ValueError: no such table or figure; no row fits the pattern.
    """
    chosen_tables = _chosen("table", tables, paper.tables, bool(figures))
    chosen_figures = _chosen("figure", figures, paper.figures, bool(tables))
    found = [(table, row) for table in chosen_tables for row in table.rows if fits(row, rows)]
    if rows and not found:
        known = {heading(row) for table in chosen_tables for row in table.rows}
        raise ValueError(f"no row fits {rows!r}; {nearest(rows, known)}")
    for _, row in found:
        for cell in row.cells:
            if cell.network is not None:
                yield cell.network, cell.evaluation, cell.measure
    for figure in chosen_figures if not rows else ():
        for panel in figure.panels:
            evaluation = None if figure.kind == "images" else panel.evaluation or None
            for networks in panel.curves.values():
                yield from ((network, evaluation, "") for network in networks)


def heading(row: Row) -> str:
    """What stands before a row."""
    return " ".join(str(each) for each in (*row.facts.values(), row.name))


def fits(row: Row, pattern: str) -> bool:
    return not pattern or fnmatchcase(heading(row).lower(), pattern.lower())


def _chosen(kind: str, asked: Sequence[str], known: Mapping[str, Any], others: bool) -> list[Any]:
    """Those asked for; all, where neither these nor the others are asked for by name."""
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(f"there is no {kind} {unknown[0]}; {nearest(unknown[0], known)}")
    return [known[name] for name in asked] if asked else [] if others else list(known.values())


def shown(paper: Paper, tables: Sequence[str], figures: Sequence[str]) -> tuple[list[Table], list[Any]]:
    return (
        _chosen("table", tables, paper.tables, bool(figures)),
        _chosen("figure", figures, paper.figures, bool(tables)),
    )

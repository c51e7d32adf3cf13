"""`steelman reproduce` in a terminal."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steelman.clusters import executor_of
from steelman.papers.agreement import agreement
from steelman.papers.chosen import Part, heading, shown
from steelman.papers.costs import seconds_of
from steelman.papers.page import MARKS, compared, with_interval, written
from steelman.papers.paper import Cell, Paper, Scale, Table, load_paper, names
from steelman.papers.reproduce import check, missing, reproduce
from steelman.papers.results import Reader, Results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid


def list_papers(console: "Console", folder: Path) -> None:
    """Every paper: its tables and figures, and how many of its numbers are measured in the folder."""
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False)
    for head in ("paper", "tables", "figures", "numbers measured", "agree"):
        grid.add_column(head)
    for name in names():
        paper = load_paper(name)
        wired = [each for each in paper.tables.values() if each.wired]
        drawn = [each for each in paper.figures.values() if each.wired]
        if not paper.wired:
            grid.add_row(name, f"0 of {len(paper.tables)}", f"0 of {len(paper.figures)}", "no recipes yet", "")
            continue
        found = _counted(paper, Results.load(folder, name), wired)
        grid.add_row(
            name,
            f"{len(wired)} of {len(paper.tables)}",
            f"{len(drawn)} of {len(paper.figures)}",
            f"{found.total() - found['missing']} of {found.total()}",
            f"{found['agrees']} of {found['agrees'] + found['differs']} comparable",
        )
    console.print(grid)
    console.print("\nsteelman reproduce PAPER --plan: what is missing, and what it costs here", highlight=False)


def _counted(paper: Paper, results: Results, tables: Sequence[Table]) -> Counter[str]:
    reader = Reader(paper, results)
    return Counter(agreement(cell.printed, reader.value(cell)) for table in tables for cell in table.cells)


def print_plan(
    console: "Console",
    name: str,
    scale: Scale,
    seeds: int,
    runs: Path,
    data: Path | None,
    folder: Path,
    part: Part,
) -> None:
    """What is missing, and what each costs on this machine, measured on a few batches."""
    from rich.table import Table as Grid

    paper = load_paper(name)
    check(paper, scale, seeds)
    jobs = missing(paper, Results.load(folder, paper.name), scale, seeds, runs, part)
    grid = Grid(box=None, pad_edge=False)
    for head in ("missing", "", "here, on one process"):
        grid.add_column(head)
    total, later = 0.0, 0
    for job in jobs:
        kind = "evaluation" if " / " in job.name else "training"
        cost = seconds_of(job, runs, data)
        total, later = total + (cost or 0.0), later + (cost is None)
        grid.add_row(job.name, kind, "known once its network is trained" if cost is None else _time(cost))
    if not jobs:
        console.print("nothing is missing", highlight=False)
        return
    console.print(grid)
    unknown = f", and {later} evaluations whose cost is not known yet" if later else ""
    console.print(f"\n{len(jobs)} jobs: {_time(total)}{unknown}", highlight=False)


def make(
    console: "Console",
    name: str,
    scale: Scale,
    seeds: int,
    runs: Path,
    data: Path | None,
    folder: Path,
    workers: int,
    cluster: str | None,
    say: Callable[[str], None],
    part: Part,
) -> bool:
    """Make what is asked for and print it; returns whether a job failed."""
    paper = load_paper(name)
    reader, failed, page = Reader(paper, Results(paper.name)), False, ""
    if paper.wired:
        with executor_of(workers, cluster) as executor:
            done = reproduce(
                name,
                part=part,
                scale=scale,
                seeds=seeds,
                runs=runs,
                data=data,
                folder=folder,
                executor=executor,
                command=_command(name, scale, seeds),
                say=say,
            )
        reader, failed, page = Reader(paper, done.results), bool(done.failed), f"page: {done.page}"
    else:
        console.print(f"{paper.title}: no recipes yet. The printed tables:\n", markup=False, highlight=False)
    for table in shown(paper, part)[0]:
        for grid in _grids(table, part, reader, console.width):
            console.print(grid)
            console.print()
    if page:
        console.print(page, markup=False, soft_wrap=True, highlight=False)
    return failed


def _grids(table: Table, part: Part, reader: Reader, width: int) -> "Iterator[Grid]":
    """A table, in as many parts as its columns need to fit."""
    from rich.markup import escape
    from rich.table import Table as Grid

    rows = [row for row in table.rows if part.has(row)]
    cells = [part.cells(table, row) for row in rows]
    columns = [
        [column[0][0], *(_text(cell, reader, compared(table)) for _, cell in column)]
        for column in zip(*cells, strict=True)
    ]
    labels = ["", *map(heading, rows)]
    title = f"Table {table.name}. {' '.join(table.caption.split())}"
    first = max(map(len, labels))
    while columns:
        grid = Grid(title=escape(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
        block, taken = [labels], first
        while columns and (len(block) == 1 or taken + 2 + _width(columns[0]) <= width):
            block.append(columns.pop(0))
            taken += 2 + _width(block[-1])
        for head in block:
            grid.add_column(escape(head[0]), overflow="fold")
        for line in zip(*(column[1:] for column in block), strict=True):
            grid.add_row(*map(escape, line))
        title = ""
        yield grid


def _width(column: Sequence[str]) -> int:
    return max(map(len, column))


def _text(cell: Cell, reader: Reader, beside: bool) -> str:
    printed, ours = written(cell.printed), reader.value(cell)
    if ours is None:
        return printed
    text = f"{with_interval(ours).replace('**', '')} {MARKS[agreement(cell.printed, ours)]}"
    return f"{printed or '–'} → {text}" if beside else text


def _command(name: str, scale: Scale, seeds: int) -> str:
    more = [] if scale == "paper" else ["--scale", scale]
    return shlex.join(["steelman", "reproduce", name, *more, *(["--seeds", str(seeds)] if seeds > 1 else [])])


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

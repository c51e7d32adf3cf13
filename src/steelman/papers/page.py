"""A paper's page: every printed number with ours beside it. A function of the paper's file and the results alone."""

from collections import Counter
from collections.abc import Iterator, Mapping

from steelman.papers.agreement import RULE, Agreement, agreement
from steelman.papers.chosen import Part, heading
from steelman.papers.figures import caption_of
from steelman.papers.paper import Cell, Figure, Paper, Printed, Table
from steelman.papers.results import Reader, Results, Value

MARKS: dict[Agreement, str] = {
    "agrees": "✓",
    "differs": "✗",
    "not comparable": "~",
    "measured": "",
    "missing": "",
}
MOST_COLUMNS = 8
"""A wider table is turned on its side."""


def page_of(paper: Paper, results: Results) -> str:
    """The page as Markdown."""
    reader = Reader(paper, results)
    parts = [f"# {paper.title}", _about(paper)]
    if not paper.wired:
        parts.append("No recipes yet: only the printed numbers are shown.")
    else:
        parts += [_counted(paper, reader), _how(paper, results)]
        parts += [RULE] if any(map(compared, paper.tables.values())) else []
        parts += [f"Scale **{name}**: {each.what}." for name, each in paper.reduced.items()]
    parts += [_table(table, reader) for table in paper.tables.values()]
    parts += [_figure(paper, figure, reader) for figure in paper.figures.values()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(paper: Paper) -> str:
    who = " ".join(f"{each}." for each in (", ".join(paper.authors), paper.venue) if each)
    return f"{who}\n\n{_flat(paper.note)}".strip()


def compared(table: Table) -> bool:
    """Whether it has printed numbers; a study of our own has none."""
    return any(cell.printed is not None for cell in table.cells)


def brief(reader: Reader, table: str, rows: str, columns: Mapping[str, str]) -> str:
    """Some rows and columns of a table, with new headings and without marks, for a page that links to this one."""
    found = reader.paper.tables[table]
    places = {found.columns.index(column): head for column, head in columns.items()}
    lines, part = [["", *places.values()]], Part(rows=rows)
    for row in found.rows:
        if part.has(row):
            pairs = ((row.cells[place].printed, reader.value(row.cells[place])) for place in places)
            lines.append([heading(row), *(_pair(printed, ours) for printed, ours in pairs)])
    return _markdown(lines)


def _pair(printed: Printed, ours: Value | None) -> str:
    if ours is None:
        return written(printed)
    number = f"{100 * ours.value:.2f}" if ours.kind == "share" else f"{ours.value:.4f}"
    return f"{written(printed)} → {number}" if printed is not None else number


def _counted(paper: Paper, reader: Reader) -> str:
    found = Counter(
        agreement(cell.printed, reader.value(cell))
        for table in paper.tables.values()
        for cell in table.cells
        if table.wired
    )
    wired = sum(found.values())
    named = ("agrees", "agree"), ("differs", "differ"), ("not comparable", "are at a reduced scale, so not comparable")
    said = [f"{found[key]} {words}" for key, words in named if found[key]]
    said += [f"{found['measured']} are ours alone"] if found["measured"] else []
    said += [f"{found['missing']} are not measured"] if found["missing"] else []
    return f"Of {wired} numbers in the tables that are wired, {', '.join(said)}."


def _how(paper: Paper, results: Results) -> str:
    entries = list(results.entries)
    if not entries:
        return f"Nothing is measured yet: `steelman reproduce {paper.name}` does it."
    days = sorted({each["made"]["date"] for each in entries})
    facts = {key: sorted({each["made"][key] for each in entries}) for key in ("steelman", "PyTorch", "hardware")}
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    trained = sum(each["training_seconds"] for each in results.networks.values()) / 3600
    measured = sum(each["seconds"] for each in results.evaluations.values()) / 3600
    return (
        f"Made by `{results.command or f'steelman reproduce {paper.name}'}`, {when}, with steelman "
        f"{', '.join(facts['steelman'])} and PyTorch {', '.join(facts['PyTorch'])} on {'; '.join(facts['hardware'])}: "
        f"{trained:.1f} hours of training and {measured:.1f} of attacks, one core each and shared with other work. "
        "Of a job that went on from what an earlier call left, the last call counts alone. "
        "95 % intervals in brackets, over images, and over seeds where there are several."
    )


def _table(table: Table, reader: Reader) -> str:
    parts = [f"## Table {table.name}", _flat(table.caption)]
    if not table.wired:
        parts.append(_printed_alone(table))
        return "\n\n".join(part for part in (*parts, _flat(table.note)) if part)
    values = {id(cell): reader.value(cell) for cell in table.cells}
    parts.append(_grid(table, values))
    parts += [*_below(table, values), _flat(table.note), table.why and f"**Ours.** {_flat(table.why)}"]
    return "\n\n".join(part for part in parts if part)


def _grid(table: Table, values: dict[int, Value | None]) -> str:
    facts = [key for key in _facts(table) if len({str(row.facts.get(key, "")) for row in table.rows}) > 1]
    heads = [*facts, ""]
    body = [
        [*(str(row.facts.get(key, "")) for key in facts), f"{row.name}{' (ours)' if row.ours else ''}"]
        + [_cell(cell, values[id(cell)], compared(table)) for cell in row.cells]
        for row in table.rows
    ]
    columns = [
        f"{name}{' (ours)' if place >= len(table.columns) - table.own_columns else ''}"
        for place, name in enumerate(table.columns)
    ]
    lines = [[*heads, *columns], *body]
    if len(columns) > MOST_COLUMNS:
        lines = [[lines[row][column] for row in range(len(lines))] for column in range(len(lines[0]))]
    return _markdown(lines)


def _facts(table: Table) -> list[str]:
    return list(dict.fromkeys(key for row in table.rows for key in row.facts))


def _cell(cell: Cell, ours: Value | None, beside: bool) -> str:
    """Ours after what is printed, or alone in a table without printed numbers."""
    printed = written(cell.printed)
    if ours is None:
        return printed
    mark = MARKS[agreement(cell.printed, ours)]
    scale = f" ({ours.scale})" if ours.reduced else ""
    before = f"{printed or '–'} → " if beside else ""
    return f"{before}{with_interval(ours)}{scale}{mark and f' {mark}'}"


def with_interval(ours: Value) -> str:
    """A number of ours with its interval."""
    if ours.kind == "time":
        return f"**{ours.value:.3g}**"
    if ours.kind == "share":
        text = f"**{100 * ours.value:.2f}** [{100 * ours.low:.1f}, {100 * ours.high:.1f}]"
    else:
        text = f"**{ours.value:.4g}** [{ours.low:.3g}, {ours.high:.3g}]"
    over = f" in {ours.seeds} seeds" if ours.seeds > 1 else ""
    return f"{text}, {ours.failures} failed{over}" if ours.failures else text


def _below(table: Table, values: dict[int, Value | None]) -> Iterator[str]:
    """How many images and seeds, what is missing, what rows say."""
    found = [value for value in values.values() if value is not None and value.images]
    if found:
        count = sorted({value.images for value in found})
        seeds = sorted({value.seeds for value in found})
        images = f"{count[0]:,}" if len(count) == 1 else f"{count[0]:,} to {count[-1]:,}"
        marks = "Printed → ours, ✓ agrees, ✗ differs, ~ not comparable. Ours: " if compared(table) else ""
        yield f"{marks}{images} images; seeds: {', '.join(map(str, seeds))}."
    missing: dict[str, list[str]] = {}
    for row in table.rows:
        for cell in row.cells:
            wanted = cell.printed is not None or (not compared(table) and cell.network is not None)
            if wanted and values[id(cell)] is None:
                missing.setdefault(_reason(cell), []).append(heading(row))
    for reason, rows in missing.items():
        yield f"Not measured, {', '.join(dict.fromkeys(rows))}: {reason}."
    notes = [f"- {heading(row)}: {_flat(row.note)}." for row in table.rows if row.note]
    yield "\n".join(notes)


def _reason(cell: Cell) -> str:
    if cell.missing:
        return cell.missing
    return "nothing makes this number yet" if cell.network is None else "not run yet"


def _printed_alone(table: Table) -> str:
    facts = _facts(table)
    lines = [[*facts, "", *table.columns]]
    for row in table.rows:
        own = [str(row.facts.get(key, "")) for key in facts]
        lines.append([*own, row.name, *(written(cell.printed) for cell in row.cells)])
    return _markdown(lines)


def _figure(paper: Paper, figure: Figure, reader: Reader) -> str:
    parts = [f"## Figure {figure.name}", _flat(figure.caption)]
    drawn = caption_of(paper, figure, reader)
    if drawn:
        parts += [f"![Figure {figure.name}]({paper.name}-figure-{figure.name}.png)", drawn]
    elif figure.missing or not figure.wired:
        parts.append(f"Not drawn: {figure.missing or 'nothing draws it yet'}.")
    else:
        parts.append("Not drawn yet.")
    parts += [figure.shows and f"The paper: {_flat(figure.shows)}", figure.why and f"**Ours.** {_flat(figure.why)}"]
    return "\n\n".join(part for part in (*parts, _flat(figure.note)) if part)


def written(printed: Printed) -> str:
    """A printed number as it stands in the paper's file."""
    return "" if printed is None else printed if isinstance(printed, str) else f"{printed:g}"


def _markdown(lines: list[list[str]]) -> str:
    rows = [f"| {' | '.join(each.replace('|', chr(92) + '|') for each in line)} |" for line in lines]
    return "\n".join([rows[0], f"|{'---|' * len(lines[0])}", *rows[1:]])


def _flat(text: str) -> str:
    return " ".join(text.split())

"""The report as Markdown, for a pull request, a wiki or a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from steelman.measures.black_box import black_box_table, transfer_table
from steelman.measures.masking import Sign
from steelman.measures.paper_table import md
from steelman.measures.transfer import Transfer
from steelman.report import sections
from steelman.report.compared import chosen, compared
from steelman.report.entry import Entry, comparable
from steelman.report.papers import Shape, measures_table, paper_table
from steelman.report.verdicts import listed, verdict

MARKS = {True: "**yes**", False: "no", None: "not measured"}


def report_markdown(
    entries: Sequence[Entry],
    *,
    title: str = "",
    on: str = "",
    transfer: Sequence[Transfer] = (),
    pictures: Mapping[str, str] | None = None,
    shape: Shape = "auto",
) -> str:
    """What `report.html` says, but for the gallery.

    pictures  by path, relative to the report, what each picture shows
    on        the date that is written down, today by default
    shape     of the table in which several models stand side by side

    Raises:
        ValueError: no entries, or models that cannot be compared.
    """
    entries = comparable(entries)
    names = listed([md(entry.name) for entry in entries])
    are = "is" if len(entries) == 1 else "are"
    found = verdict(entries, transfer)
    parts = [
        f"# {title or f'How robust {are} {names}?'}",
        *(f"**{md(each)}**" for each in (*found.cautions, found.finding)),
        _list([*found.tried, *found.sure]),
        *_tables(entries, transfer, found.attack, shape),
        *_waterfalls(entries),
        *_signs(entries, transfer),
        *_checkups(entries),
        *_transfers(transfer),
        *_pictures(pictures or {}),
        *_attacks(entries),
        *_again(entries),
        f"Steelman report, {on or date.today().isoformat()}.",
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _tables(entries: Sequence[Entry], transfer: Sequence[Transfer], threat: str, shape: Shape) -> Iterator[str]:
    if len(entries) > 1:
        yield "## Side by side"
        yield paper_table(entries, shape, transfer=transfer).markdown()
        yield _list([str(duel) for duel in chosen(compared(entries), threat)])
    yield "## Measures"
    yield measures_table(entries).markdown()
    left = [
        f"{entry.name + ': ' if len(entries) > 1 else ''}{name} was not measured: {why}"
        for entry in entries
        for name, why in entry.unmeasured.items()
    ]
    yield _list(left)


def _waterfalls(entries: Sequence[Entry]) -> Iterator[str]:
    found = sections.waterfalls(entries)
    if found:
        yield "## Which attack broke which images"
        yield "Images that each attack was the first to break, in the order in which the attacks were run."
    for fall in found:
        rows = [
            [row["name"], *("–" if cell is None else f"{cell['count']} ({cell['share']} %)" for cell in row["cells"])]
            for row in fall["rows"]
        ]
        yield _table([f"Within {fall['threat']}", *(entry.name for entry in entries)], rows)


def _signs(entries: Sequence[Entry], transfer: Sequence[Transfer]) -> Iterator[str]:
    yield "## Signs of masked gradients"
    asked = [sections.sign_table([entry], transfer) for entry in entries]
    rows = []
    for same in zip(*asked, strict=True):
        answers = [sign for row in same for sign in row["signs"]]
        rows.append([same[0]["question"], *map(_answered, answers)])
    yield _table(["Sign", *(entry.name for entry in entries)], rows, plain=False)


def _answered(sign: Sign) -> str:
    ask = "" if not sign.ask else f". This asks it: `{sign.ask.replace('|', chr(92) + '|')}`"
    return f"{MARKS[sign.found]}: {md(sign.numbers)}{ask}"


def _checkups(entries: Sequence[Entry]) -> Iterator[str]:
    shown = [entry for entry in entries if entry.checkup is not None]
    if shown:
        yield "## Check-up"
    for entry in shown:
        assert entry.checkup is not None
        rows = [[each.level, each.name, each.found, each.advice] for each in entry.checkup.findings]
        yield _table([entry.name, "Looked at", "Found", "Advice"], rows)


def _transfers(transfer: Sequence[Transfer]) -> Iterator[str]:
    if transfer:
        yield "## Transfer"
        yield black_box_table(transfer).markdown()
    yield from (transfer_table(each).markdown() for each in transfer)


def _pictures(pictures: Mapping[str, str]) -> Iterator[str]:
    if pictures:
        yield "## Pictures"
    yield from (f"![{md(about)}]({path})" for path, about in pictures.items())


def _attacks(entries: Sequence[Entry]) -> Iterator[str]:
    yield "## What was attacked with what"
    rows = [
        [
            each["name"],
            each["call"],
            each["space"],
            *(", ".join(form.format(value) for value in each[key]) for key, form in COSTS.items()),
        ]
        for each in sections.attacks(entries)
    ]
    if rows:
        yield _table(["Attack", "Every parameter", "Space", "Images", "Gradient passes per image", "Seconds"], rows)


COSTS = {"images": "{}", "gradients": "{:.1f}", "seconds": "{:.2g}"}


def _again(entries: Sequence[Entry]) -> Iterator[str]:
    yield "## How to do it again"
    for entry in entries:
        said: dict[str, Any] = sections.about(entry)
        yield f"### {md(entry.name)}"
        yield _list([f"{key}: {value}" for key, value in (said["trained"] | said["evaluated"]).items()])
        if entry.recipe:
            yield f"```toml\n{entry.recipe.strip()}\n```"
    cited = sections.cited(entries)
    if cited:
        yield f"## How to cite\n\n```\n{cited.strip()}\n```"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {md(line)}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], plain: bool = True) -> str:
    """`plain`: the cells are text; otherwise they are Markdown already."""
    lines = [[md(cell) for cell in head], ["---"] * len(head)]
    lines += [[md(cell) if plain else cell for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

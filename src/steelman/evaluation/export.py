"""The measures of one or several models, for the terminal, for spreadsheets and for programs."""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelman.evaluation.entry import Entry, comparable, measured
from steelman.evaluation.measures import plain
from steelman.evaluation.plots import figures, save_figure
from steelman.evaluation.report.page import write_report

if TYPE_CHECKING:
    import rich.table


def terminal_table(entries: Sequence[Entry]) -> "rich.table.Table":
    """Measures by models, each with its 95 % interval; print it with `rich.print`."""
    from rich.table import Table
    from rich.text import Text

    entries = comparable(entries)
    table = Table(title=f"{entries[0].evaluation.images} images, 95 % intervals", title_justify="left")
    table.add_column("", overflow="fold")
    for entry in entries:
        table.add_column(Text(entry.name), justify="right")
    for name in measured(entries):
        cells = (str(entry.measures.get(name, "")).replace(" [", "\n[") for entry in entries)
        table.add_row(Text(name), *map(Text, cells))
    return table


def csv_table(entries: Sequence[Entry]) -> str:
    """One line per model and measure: model, measure, value, low, high, count, kind, failures."""
    entries = comparable(entries)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "measure", "value", "low", "high", "count", "kind", "failures"])
    for entry in entries:
        for name, found in entry.measures.items():
            writer.writerow(
                [entry.name, name, found.value, found.low, found.high, found.count, found.kind, found.failures]
            )
    return text.getvalue()


def json_table(entries: Sequence[Entry]) -> dict[str, Any]:
    """Per model: how many images, what is known of it, and its measures."""
    entries = comparable(entries)
    return {
        entry.name: {
            "images": entry.evaluation.images,
            "info": dict(entry.info),
            "measures": plain(entry.measures),
        }
        for entry in entries
    }


def write(folder: str | Path, entries: Sequence[Entry], **page: Any) -> list[Path]:
    """Everything that is left of an evaluation, in one folder; returns what was written.

    For one model `table.parquet`, for several `table-<number>-<name>.parquet`; `measures.json`, `measures.csv`,
    `curve-<norm>.png` and `.svg`, `convergence-<key>.png` and `.svg`, and `report.html`. `page` goes to `write_report`.
    """
    entries = comparable(entries)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, entry in enumerate(entries, 1):
        slug = re.sub(r"[^\w.]+", "-", entry.name)
        path = folder / ("table.parquet" if len(entries) == 1 else f"table-{number}-{slug}.parquet")
        entry.evaluation.save(path)
        written.append(path)
    written += [folder / "measures.json", folder / "measures.csv"]
    written[-2].write_text(json.dumps(json_table(entries), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    written[-1].write_text(csv_table(entries), encoding="utf-8")
    for stem, figure in figures(entries).items():
        save_figure(figure, folder / stem)
        written += [folder / f"{stem}.png", folder / f"{stem}.svg"]
    return [*written, write_report(folder, entries, **page)]

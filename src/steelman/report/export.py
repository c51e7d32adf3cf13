"""What is left of an evaluation: tables, reports and pictures, for readers, spreadsheets and programs."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from steelman.files import working_in, write_text
from steelman.measures.black_box import black_box_table, transfer_table
from steelman.measures.paper_table import PaperTable
from steelman.measures.transfer import Transfer
from steelman.report.entry import Entry, comparable
from steelman.report.markdown import report_markdown
from steelman.report.page import write_report
from steelman.report.papers import Shape, paper_table
from steelman.report.plots import figures, save_figure
from steelman.report.results import results_text
from steelman.table.places import table_path


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


def slug(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^\w.]+", "-", name)


def write(
    folder: str | Path,
    entries: Sequence[Entry],
    *,
    transfer: Sequence[Transfer] = (),
    shape: Shape = "auto",
    title: str = "",
    classes: Sequence[str] = (),
    on: str = "",
) -> list[Path]:
    """Everything that is left of an evaluation, in one folder; returns what was written, `report.html` last.

    For one model `table.parquet`, and `table-preprocessed.parquet` where it has one; for several
    `table-<number>-<name>.parquet`, and `table.md`, `table.tex` and
    `table.csv`, which are `paper_table(entries, shape)`. Of transfers, `transfer-<attack>` and `black-box` in the same
    three forms, which are `transfer_table` and `black_box_table`. `results.json` (see `results`), `measures.csv`,
    pictures as PNG and SVG, `report.md`, and `report.html`, to which title, classes and date go.

    Raises:
        ValueError: no entries, models that cannot be compared, or a shape of which they have no number.
    """
    entries = comparable(entries)
    side_by_side = paper_table(entries, shape, transfer=transfer) if len(entries) > 1 else None
    folder = Path(folder)
    with working_in(folder):
        return _written(folder, entries, side_by_side, transfer, shape, title, classes, on)


def _written(
    folder: Path,
    entries: Sequence[Entry],
    side_by_side: PaperTable | None,
    transfer: Sequence[Transfer],
    shape: Shape,
    title: str,
    classes: Sequence[str],
    on: str,
) -> list[Path]:
    written = []
    for number, entry in enumerate(entries, 1):
        for space, table in entry.spaces.items():
            own = table_path(folder, space)
            written.append(own if len(entries) == 1 else own.with_stem(f"{own.stem}-{number}-{slug(entry.name)}"))
            table.save(written[-1])
    shown = {}
    for stem, figure in figures(entries).items():
        save_figure(figure, folder / stem)
        shown[f"{stem}.svg"] = str(figure.get_label()) or stem
        written += [folder / f"{stem}.png", folder / f"{stem}.svg"]
    texts = {
        "results.json": results_text(entries, transfer=transfer, on=on),
        "measures.csv": csv_table(entries),
        "report.md": report_markdown(entries, title=title, on=on, transfer=transfer, pictures=shown, shape=shape),
    }
    tables = {} if side_by_side is None else {"table": side_by_side}
    tables |= {f"transfer-{slug(each.attack)}": transfer_table(each) for each in transfer}
    tables |= {"black-box": black_box_table(transfer)} if transfer else {}
    for stem, table in tables.items():
        texts |= {f"{stem}.md": table.markdown(), f"{stem}.tex": table.latex(), f"{stem}.csv": table.csv()}
    for name, text in texts.items():
        write_text(folder / name, text)
        written.append(folder / name)
    return [*written, write_report(folder, entries, transfer=transfer, title=title, classes=classes, on=on)]

"""The files that a report writes: tables, pictures and texts, for readers, spreadsheets and programs."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from steelman.files import working_in, write_text
from steelman.measures.transfer import Transfer
from steelman.report.document import Document
from steelman.report.entry import Entry
from steelman.report.papers import Shape
from steelman.report.plots import save_figure
from steelman.report.rendering import report_markdown, report_page
from steelman.report.results import results_text
from steelman.table.places import table_path


def csv_table(document: Document) -> str:
    """One line per model and measure: model, measure, value, low, high, count, kind, failures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = ("value", "low", "high", "count", "kind", "failures")
    writer.writerow(["model", "measure", *fields])
    for entry in document.entries:
        for name, measure in entry.measures.items():
            writer.writerow([entry.name, name, *(getattr(measure, field) for field in fields)])
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
    """A report on models in one folder, `write_document(folder, Document(entries, ...))`; returns the files."""
    document = Document(entries, transfer, shape=shape, title=title, classes=classes, on=on)
    return write_document(folder, document)


def write_document(folder: str | Path, document: Document) -> list[Path]:
    """Everything that an evaluation leaves, in one folder; returns the files, `report.html` last.

    For one model `table.parquet`, and `table-preprocessed.parquet` where it has one; for several
    `table-<number>-<name>.parquet`, and `table.md`, `table.tex` and `table.csv` (`paper_table`). Of transfers,
    `transfer-<attack>` and `black-box` in the same three forms (`transfer_table`, `black_box_table`). `results.json`
    (see `results`), `measures.csv`, pictures as PNG and SVG, `report.md` and `report.html`.

    Raises:
        ValueError: the models have no number of the document's shape.
    """
    many = len(document.entries) > 1
    tables = {"table": document.table} if many else {}  # refused before the folder is there
    folder = Path(folder)
    with working_in(folder):
        written = []
        for number, entry in enumerate(document.entries, 1):
            for space, table in entry.spaces.items():
                own = table_path(folder, space)
                written.append(own.with_stem(f"{own.stem}-{number}-{slug(entry.name)}") if many else own)
                table.save(written[-1])
        for stem, picture in document.pictures.items():
            save_figure(picture.figure, folder / stem, picture.svg)
            written += [folder / f"{stem}.png", folder / f"{stem}.svg"]
        for each, table in zip(document.transfers, document.transfer_tables, strict=True):
            tables[f"transfer-{slug(each.attack)}"] = table
        tables |= {"black-box": document.black_box} if document.black_box else {}
        texts = {
            "results.json": results_text(document),
            "measures.csv": csv_table(document),
            "report.md": report_markdown(document, pictures=True),
        }
        for stem, table in tables.items():
            texts |= {f"{stem}.md": table.markdown(), f"{stem}.tex": table.latex(), f"{stem}.csv": table.csv()}
        for name, text in (texts | {"report.html": report_page(document)}).items():
            write_text(folder / name, text)
            written.append(folder / name)
    return written

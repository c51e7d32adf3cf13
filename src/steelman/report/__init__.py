"""Reports of evaluated models: the page, Markdown, JSON, tables and figures."""

from steelman.measures.black_box import black_box_table, transfer_table
from steelman.measures.paper_table import PaperTable, TableColumn
from steelman.report.compared import Duel, compared
from steelman.report.entry import Entry
from steelman.report.export import csv_table, write
from steelman.report.gallery import Gallery
from steelman.report.page import write_report
from steelman.report.papers import measures_table, paper_table
from steelman.report.plots import (
    draw_convergence,
    draw_curves,
    draw_lines,
    draw_robustness,
    figures,
    save_figure,
)
from steelman.report.results import results
from steelman.report.verdicts import Verdict, verdict

__all__ = [
    "Duel",
    "Entry",
    "Gallery",
    "PaperTable",
    "TableColumn",
    "Verdict",
    "black_box_table",
    "compared",
    "csv_table",
    "draw_convergence",
    "draw_curves",
    "draw_lines",
    "draw_robustness",
    "figures",
    "measures_table",
    "paper_table",
    "results",
    "save_figure",
    "transfer_table",
    "verdict",
    "write",
    "write_report",
]

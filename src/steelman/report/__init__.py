"""Reports of evaluated models: a document of facts, and the page, Markdown, JSON, tables and pictures made from it."""

from steelman.measures.paper_table import PaperTable, TableColumn
from steelman.measures.transfer import black_box_table, transfer_table
from steelman.report.charts import Chart, curves_chart, lines_chart, robustness_chart, training_charts
from steelman.report.document import Document
from steelman.report.entry import Entry
from steelman.report.export import csv_table, write, write_document
from steelman.report.gallery import Gallery
from steelman.report.papers import measures_table, paper_table
from steelman.report.plots import draw, save_figure
from steelman.report.rendering import report_markdown, report_page
from steelman.report.results import results
from steelman.report.verdicts import ModelPair, Verdict

__all__ = [
    "Chart",
    "Document",
    "Entry",
    "Gallery",
    "ModelPair",
    "PaperTable",
    "TableColumn",
    "Verdict",
    "black_box_table",
    "csv_table",
    "curves_chart",
    "draw",
    "lines_chart",
    "measures_table",
    "paper_table",
    "report_markdown",
    "report_page",
    "results",
    "robustness_chart",
    "save_figure",
    "training_charts",
    "transfer_table",
    "write",
    "write_document",
]

"""One self-contained page that says which model stands, under what, and how it was found out."""

from steelman.evaluation.report.page import write_report
from steelman.evaluation.report.verdict import Verdict, verdict

__all__ = ["Verdict", "verdict", "write_report"]

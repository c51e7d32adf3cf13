"""The table of attacked images: rows, the records of its attacks, and its columns."""

from steelman.table.table import Evaluation

__all__ = ["Evaluation"]

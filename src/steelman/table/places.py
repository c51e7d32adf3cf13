"""Where the folder of an evaluation has its tables."""

from pathlib import Path
from typing import Literal, TypeAlias, get_args

from steelman.table.table import Evaluation, read_spaces

Space: TypeAlias = Literal["pixels", "preprocessed"]
TABLE = "table.parquet"


def table_path(folder: Path, space: str = "pixels") -> Path:
    """Where a folder has its table; that of another space than pixels lies beside it.

    Raises:
        ValueError: there is no such space. A table from elsewhere may name one that leads out of the folder.
    """
    if space not in get_args(Space):
        raise ValueError(f"there is no space {space!r}; there are {', '.join(get_args(Space))}")
    return folder / (TABLE if space == "pixels" else f"table-{space}.parquet")


def tables_in(folder: Path) -> dict[str, Evaluation]:
    """A folder's tables by space, the pixels' first.

    Raises:
        FileNotFoundError: there is none. ValueError: one is not whole.
    """
    found = read_spaces(table_path(folder))
    for path in sorted(folder.glob("table-*.parquet")):
        table = Evaluation.load(path)
        if path == table_path(folder, table.space):
            found[table.space] = table
    return found

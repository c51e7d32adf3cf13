"""Run the notebooks of docs/notebooks/ and keep their outputs in them: `make notebooks`."""

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


def run(path: Path) -> None:
    """Run one notebook in a fresh kernel, and write it back with what its cells print and show.

    Raises:
        CellExecutionError: a cell fails; nothing is written.
    """
    import nbformat
    from nbclient import NotebookClient

    read = nbformat.read(path, as_version=4)
    NotebookClient(read, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    path.write_text(json.dumps(plain(read), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def plain(read: Any) -> dict[str, Any]:
    """A notebook without what differs from run to run or says where it ran."""
    cells = []
    for place, cell in enumerate(read["cells"]):
        kept = {"cell_type": cell["cell_type"], "id": f"cell-{place}", "metadata": {}}
        if cell["cell_type"] == "code":
            kept |= {"execution_count": cell["execution_count"], "outputs": [dict(each) for each in cell["outputs"]]}
        cells.append(kept | {"source": "".join(cell["source"]).splitlines(keepends=True)})
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    for notebook in map(Path, sys.argv[1:] or sorted(FOLDER.glob("*.ipynb"))):
        run(notebook)
        print(notebook.name)

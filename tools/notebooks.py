"""Run the notebooks of docs/notebooks/ and keep their outputs in them: `make notebooks`."""

import json
import re
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
            outputs = [_clean(dict(each)) for each in cell["outputs"] if not _is_a_bar(each)]
            kept |= {"execution_count": cell["execution_count"], "outputs": outputs}
        cells.append(kept | {"source": "".join(cell["source"]).splitlines(keepends=True)})
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def _is_a_bar(output: Any) -> bool:
    """Whether an output is what is left of a progress bar."""
    data = output.get("data", {})
    return "application/vnd.jupyter.widget-view+json" in data or (bool(data) and not data.get("text/plain"))


def _clean(output: dict[str, Any]) -> dict[str, Any]:
    """An output whose warnings do not say in which file of this machine they arose, and which line that has."""
    if "image/png" in output.get("data", {}):
        output["data"].pop("image/jpeg", None)
    if output.get("name") == "stderr":
        output["text"] = re.sub(r"^\S+:\d+: (\w*Warning: .*\n)  .*\n", r"\1", "".join(output["text"]), flags=re.M)
    return output


if __name__ == "__main__":
    for notebook in map(Path, sys.argv[1:] or sorted(FOLDER.glob("*.ipynb"))):
        run(notebook)

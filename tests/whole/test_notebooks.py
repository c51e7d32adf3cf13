"""The notebooks run from top to bottom, and the outputs in them are what their cells give."""

import ast
import contextlib
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def ran(source: str, names: dict[str, Any]) -> tuple[str, str, Any]:
    """What a cell prints to both streams, and the value of its last line."""
    tree, value = ast.parse(source), None
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as beside:
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return out.getvalue(), beside.getvalue(), value


def stream(outputs: list[dict[str, Any]], name: str) -> str:
    return "".join("".join(each["text"]) for each in outputs if each.get("name") == name)


def forms(value: Any) -> dict[str, str]:
    """The texts that a notebook keeps of a value."""
    found = {"text/plain": repr(value)}
    if hasattr(value, "_repr_html_"):
        found["text/html"] = value._repr_html_()
    return found


def assert_like(kept: str, now: str) -> None:
    """Equal, but for numbers, which may differ a little on another processor."""
    assert NUMBER.sub("#", kept) == NUMBER.sub("#", now)
    for one, two in zip(NUMBER.findall(kept), NUMBER.findall(now), strict=True):
        assert float(one) == pytest.approx(float(two), rel=0.1, abs=4), (kept, now)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_the_outputs_of_its_cells(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cells, names = code_cells(path), {"__name__": "__main__"}
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    for cell in cells:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            printed, beside, value = ran("".join(cell["source"]), names)
        outputs = cell["outputs"]
        assert not [each for each in outputs if each["output_type"] == "error"]
        assert_like(stream(outputs, "stdout"), printed)
        kept = stream(outputs, "stderr").splitlines()
        assert_like("\n".join(line for line in kept if not line.startswith("UserWarning: ")), beside.strip())
        said = dict.fromkeys(f"UserWarning: {each.message}" for each in warned if each.category is UserWarning)
        assert_like(
            "\n".join(dict.fromkeys(each for each in kept if each.startswith("UserWarning: "))), "\n".join(said)
        )
        shown = [each["data"] for each in outputs if each["output_type"] == "execute_result"]
        assert len(shown) == (value is not None)
        if shown and " at 0x" not in repr(value):
            for kind, text in forms(value).items():
                assert_like("".join(shown[0][kind]), text)
        assert hasattr(value, "_repr_png_") == ("image/png" in (shown or [{}])[0])


def test_notebooks_say_nothing_of_where_they_ran():
    assert len(NOTEBOOKS) >= 2
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert "site-packages" not in text
        assert not re.search(r"/(home|root|tmp|work|Users)/", text)


def test_an_output_that_is_not_the_cells_is_found():
    assert_like("a 97.0 % b", "a 97.1 % b")
    with pytest.raises(AssertionError):
        assert_like("a 97.0 %", "a 59.0 %")
    with pytest.raises(AssertionError):
        assert_like("a 97.0 %", "c 97.0 %")

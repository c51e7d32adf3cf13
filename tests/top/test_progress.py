"""The progress bar: silent outside a terminal, and in a notebook one display that is changed in its place."""

import builtins
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

from steelman import progress
from steelman.progress import ProgressBar


def run() -> None:
    with ProgressBar(True, 3, "attacks") as bar:
        for place in range(3):
            bar.advance(note=f"of [b]{place}[/b]")
        bar.set(3, "done")


def test_nothing_is_printed_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]):
    run()
    assert capfd.readouterr() == ("", "")


class ZMQInteractiveShell:
    """A notebook's kernel, as far as it is asked for."""

    kernel = True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A notebook with ipywidgets, and what happens in it."""
    seen: list[tuple[str, Any]] = []
    inside: list[Any] = []

    class Output:
        def __enter__(self) -> "Output":
            inside.append(self)
            return self

        def __exit__(self, *raised: object) -> None:
            inside.pop()

        def clear_output(self, wait: bool) -> None:
            seen.append(("clear", wait))

        def close(self) -> None:
            seen.append(("close", self))

    def display(what: Any, *more: Any, **options: Any) -> None:
        if isinstance(what, Output):
            seen.append(("widget", what))
        else:
            seen.append(("inside" if inside else "beside", what._repr_mimebundle_([], [])["text/plain"]))

    shell = ZMQInteractiveShell()
    names: dict[str, dict[str, Any]] = {
        "IPython": {"get_ipython": lambda: shell},
        "IPython.display": {"display": display},
        "ipywidgets": {"Output": Output},
    }
    for name, members in names.items():
        module = ModuleType(name)
        module.__spec__ = importlib.util.spec_from_loader(name, None)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    return seen


def test_a_notebook_gets_one_display_which_is_changed_and_then_closed(
    kernel: list[tuple[str, Any]], capfd: pytest.CaptureFixture[str]
):
    run()
    kinds = [kind for kind, _ in kernel]
    assert kinds.count("widget") == kinds.count("close") == 1
    assert kinds.index("widget") == 0
    assert "inside" not in kinds or "clear" in kinds[: kinds.index("inside")]
    assert kinds.count("clear") >= kinds.count("inside") > 0, "each drawing replaces the one before"
    assert "".join(text for kind, text in kernel if kind == "beside").strip() == ""
    assert "attacks" in next(text for kind, text in kernel if kind == "inside")
    assert capfd.readouterr() == ("", "")


def test_a_notebook_without_ipywidgets_gets_none_and_no_warning(
    kernel: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    there = importlib.util.find_spec
    monkeypatch.setattr(progress, "find_spec", lambda name: None if name == "ipywidgets" else there(name))
    run()
    assert kernel == []
    assert capfd.readouterr() == ("", "")

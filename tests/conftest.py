"""Shapes and types are checked at every call while tests run."""

import sys
from collections.abc import Callable

import pytest

import typechecks

# Before the first import of steelman, so that all of it is checked.
typechecks.install()

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[int, str, str]]:
    """The command as a person calls it: exit code, standard output and standard error."""
    from steelman.cli import main as cli

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))  # logs are kept there
    monkeypatch.delenv("STEELMAN_DATA", raising=False)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["steelman", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run

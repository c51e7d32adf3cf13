"""Files that would take all memory, all time or a traceback: refused at once and in one line (`bombs.py` has them)."""

import json
import subprocess
import sys

import pytest

import bombs
from bombs import BOMBS

pytestmark = pytest.mark.xdist_group("bombs")  # one process reads them all

SECONDS = 20.0
"""A bomb takes less than a second; other tests may run beside it."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """The error of each and its seconds, in a process with little memory to spare."""
    command = [sys.executable, "-W", "ignore", bombs.__file__, tmp_path_factory.mktemp("bombs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(name: str, outcomes: dict[str, tuple[str, float]]) -> None:
    error, seconds = outcomes[name]
    kind, _, message = error.partition(": ")
    assert kind == "ValueError"
    assert "MemoryError" not in message
    assert "allocate" not in message
    assert "\n" not in message
    assert seconds < SECONDS

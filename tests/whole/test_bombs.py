"""Files that would take all memory, all time or a traceback: refused at once and in one line (`bombs.py` has them)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bombs import BOMBS

pytestmark = pytest.mark.xdist_group("bombs")  # one process reads them all

SECONDS = 20.0
"""A bomb takes less than a second; others may be at work."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """What came of each, in a process that has little memory to spare."""
    here, root = Path(__file__).parent, tmp_path_factory.mktemp("bombs")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", here / "bombs.py", root], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(name: str, found: dict[str, tuple[str, float]]) -> None:
    said, seconds = found[name]
    kind, _, message = said.partition(": ")
    assert kind == "ValueError"
    assert "MemoryError" not in message
    assert "allocate" not in message
    assert "\n" not in message
    assert seconds < SECONDS

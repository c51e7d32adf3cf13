"""A pytest plugin that ends a run in which another copy of the package was imported."""

import os
import sys
from pathlib import Path

import pytest

WRONG = 90
"""Exit code of such a run."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    source = Path(os.environ["MUTANT_SOURCE"]).resolve()
    found = getattr(sys.modules.get("steelman"), "__file__", None)
    if session.exitstatus not in (0, 1):
        return
    if found is None or source not in Path(found).resolve().parents:
        sys.stderr.write(f"steelman was imported from {found}, not from {source}\n")
        session.exitstatus = WRONG

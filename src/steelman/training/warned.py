"""Warnings during training: each once, not again with every batch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def once_per_place() -> Iterator[None]:
    """Within it, only the first warning from each place in the code is shown.

    Python itself tells warnings apart by their text too, which names other images in every batch.
    """
    with warnings.catch_warnings():
        show, seen = warnings.showwarning, set[tuple[str, int]]()

        def first(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
            if (filename, lineno) not in seen:
                seen.add((filename, lineno))
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = first
        yield

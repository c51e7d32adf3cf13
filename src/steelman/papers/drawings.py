"""Figures that no table of results draws."""

from pathlib import Path


def toy_study(path: Path) -> list[str]:
    """Efficient Defenses' figure 2, written to `path`; returns what stands under it."""
    from steelman.papers.toy import toy_study

    return toy_study(path)

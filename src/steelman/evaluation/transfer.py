"""Crafted on one model, tested on another: every pair at once."""

from dataclasses import dataclass

from steelman.evaluation.measures import Measure


@dataclass(frozen=True)
class Transfer:
    """Accuracies of `targets` (columns) on images that one attack made on `sources` (rows).

    `accuracy[i][j]` is of target j on the images made on source i; a source that is an ensemble stands under a name of
    its own. `clean` is of the unattacked images.
    """

    attack: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    accuracy: tuple[tuple[Measure, ...], ...]
    clean: tuple[Measure, ...]

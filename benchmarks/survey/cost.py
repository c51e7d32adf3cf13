"""What a batch costs against a plain batch, and what is crafted before training against a plain epoch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from steelman import Plain
from steelman.defences import Game
from steelman.experiments.recipe import Recipe, build
from steelman.experiments.run import Run
from steelman.networks import Filtered
from steelman.randomness import combine
from steelman.training import play
from steelman.training.prepare import Guided
from steelman.types import Batch

ROUNDS = 3
CRAFTED = 200
"""Images on which the price of a preparation is measured."""


@dataclass(frozen=True)
class Cost:
    """All against plain training, measured in turns with it on one core.

    batch   processor time of a batch
    images  how many images an epoch has for each of the original ones
    once    processor time of what is done to each image before training, against a plain batch's per image
    plain   seconds of processor time of a plain batch then
    """

    batch: float
    images: float
    once: float
    plain: float

    @property
    def epoch(self) -> float:
        return self.batch * self.images


def measure(recipe: Recipe, start: Path, data: Path | None) -> Cost:
    """Of a recipe of the survey, on the network that all begin from, which is asked where a teacher would be."""
    train = recipe.data.load("train", data)
    some = train.subset(torch.arange(4 * recipe.training.batch_size))
    plain, once = Run.open(start).network(train), 0.0
    whole = some
    for preparation in recipe.prepare:
        guide = Run.open(start).network(train) if isinstance(preparation, Guided) else None
        few = whole.subset(torch.arange(CRAFTED))
        once += _seconds(lambda: preparation(few, guide, progress=False)) / CRAFTED  # noqa: B023 (called at once)
        whole = preparation(few, guide, progress=False)
    model = build(recipe, train)
    if not isinstance(model, Filtered):
        model.load_state_dict(plain.state_dict())
    optimiser = recipe.training.optimiser.build(model.parameters())
    game = recipe.defence.setup(model, whole)
    first = torch.arange(recipe.training.batch_size)
    batch, clean = next(whole.batches([first])), next(some.batches([first]))
    assert batch.index is not None
    batch = Batch(batch.x, batch.y, batch.index, combine(batch.index, 1), batch.soft, 0.5, 7)
    mine, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(_batch(Plain(), plain, clean))
        mine.append(_seconds(lambda: play(game, model.train(), batch, optimiser)))
    per_image = median(theirs) / len(clean)
    return Cost(
        median(a / b for a, b in zip(mine, theirs, strict=True)),
        len(whole) / (CRAFTED if recipe.prepare else len(some)),
        once / per_image,
        median(theirs),
    )


def _batch(game: Game, model: nn.Module, batch: Batch) -> float:
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)
    return _seconds(lambda: play(game, model.train(), batch, optimiser))


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start

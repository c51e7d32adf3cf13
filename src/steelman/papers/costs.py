"""What a job costs here, measured on a few batches of it."""

import time
from pathlib import Path

import torch
from torch import nn

from steelman.defences.game import Player, players_of
from steelman.experiments.recipe import Recipe, build
from steelman.experiments.run import Run
from steelman.networks.building import device
from steelman.papers.jobs import Measured, Trained
from steelman.randomness import combine
from steelman.training import play
from steelman.training.prepare import Guided
from steelman.types import CLASSIFIER, Batch

BATCHES = 3
IMAGES = 32
"""Batches of training and images of an attack that are timed; the first batch is not, as it begins everything."""


def seconds_of(job: Trained | Measured, runs: Path, data: Path | None) -> float | None:
    """Seconds of a job, on one process; None for an evaluation of a network that is not trained yet.

    A batch of training costs about the same from the first on; attacks stop earlier on a weak network, so they are
    timed on the trained one. Attacks on few images are slower per image, so this is an upper bound.
    """
    if isinstance(job, Trained):
        return _training(job.recipe, data)
    run = runs / job.network.name
    sources = [runs / each.name for each in job.needs]
    if not all((each / "best.safetensors").is_file() for each in sources):
        return None
    return _attacks(job, run, data)


def _training(recipe: Recipe, data: Path | None) -> float:
    """Preparations and batches. Where a trained network guides a preparation, an untrained one stands for it."""
    whole = recipe.data.load("train", data)
    settings, once, count = recipe.training, 0.0, len(whole)
    batch = min(settings.batch_size, len(whole))
    images = whole.subset(torch.arange(min((BATCHES + 1) * batch, len(whole))))
    model = build(recipe, images).to(device())
    for prepare in recipe.prepare:
        few = images.subset(torch.arange(min(IMAGES, len(images))))
        start = time.perf_counter()
        made = prepare(few, model if isinstance(prepare, Guided) else None, seed=0, progress=False)
        once += (time.perf_counter() - start) * len(whole) / len(few)
        count = count * len(made) // len(few)
    game = recipe.defence.setup(model, images)
    everyone = {CLASSIFIER: Player(model, settings.optimiser), **players_of(game, images, {})}
    nets = nn.ModuleDict({name: each.network.to(device()).train() for name, each in everyone.items()})
    optimisers = {name: each.optimiser.build(each.network.parameters()) for name, each in everyone.items()}
    spent = []
    for rows in torch.arange(len(images)).split(batch):
        each = next(images.batches([rows]))
        assert each.index is not None
        seeds = combine(each.index, 1)
        each = Batch(each.x.to(device()), each.y.to(device()), each.index, seeds, each.soft, 0.5, 7)
        start = time.perf_counter()
        play(game, nets, each, optimisers)
        spent.append(time.perf_counter() - start)
    held = settings.validation if settings.validation >= 1 else settings.validation * count
    an_epoch = (settings.images or count - held) / batch
    batches = settings.iterations or settings.epochs * an_epoch
    return once + batches * sum(spent[1:] or spent) / len(spent[1:] or spent)


def _attacks(job: Measured, run: Path, data: Path | None) -> float:
    subject = Run.open(run).subject(data)
    count = len(subject.sample(job.evaluation.images or job.battery.images))
    batch = next(subject.test.batches([torch.arange(min(IMAGES, len(subject.test)))]))
    total = 0.0
    for attack in job.attacks(0.1, len(subject.test.classes)).values():
        start = time.perf_counter()
        attack.run(subject.model, batch.x, batch.y)
        total += (time.perf_counter() - start) * count / len(batch)
    return total

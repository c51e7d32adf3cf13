"""How images are cut into batches where a network cannot learn from a single one."""

import torch
from torch import Tensor, nn

from steelman.data.dataset import Dataset
from steelman.defences.game import Game
from steelman.forward import logits_of
from steelman.networks.surgery import batchnorm_layers, rehearsal
from steelman.types import Indices


def least_images(model: nn.Module, data: Dataset) -> int:
    """How few images a model can run on in train mode: 2 where batch normalisation has one value per image, else 1.

    Cost: 1 forward pass on one image, and only where there is batch normalisation.
    """
    if batchnorm_layers(model):
        with rehearsal(model, data) as x, torch.no_grad():
            try:
                logits_of(model, x[:1])
            except ValueError as error:
                return 2 if "more than 1 value per channel" in str(error) else 1
    return 1


def cut(places: Indices, size: int, least: int = 1) -> tuple[Tensor, ...]:
    """Parts of `size`; a last one of fewer than `least` is joined to the one before, so that no image is left out."""
    parts = places.split(size)
    if len(parts) > 1 and len(parts[-1]) < least:
        return *parts[:-2], torch.cat(parts[-2:])
    return parts


def parts_in(images: int, size: int, least: int = 1) -> int:
    """How many parts `cut` makes of so many images."""
    whole, rest = divmod(images, size)
    return whole + (rest > 0 and (rest >= least or whole == 0))


def least_batch(game: Game, alone: int, batch_size: int, images: int, processes: int) -> int:
    """How few images a batch may have: `alone` for each process, or 1 for a game without batch statistics.

    Raises:
        ValueError: even the first batch is smaller.
    """
    least = alone * processes if alone > 1 and game.batch_statistics and not game.frozen else 1
    if min(batch_size, images) < least:
        each = "" if processes == 1 else f", two for each of {processes} processes"
        raise ValueError(
            f"batch normalisation cannot learn from one image at a time: training needs batches of {least} images or "
            f"more{each}; got batch_size={batch_size} and {images} images"
        )
    return least

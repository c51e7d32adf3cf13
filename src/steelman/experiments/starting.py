"""The weights with which a training begins: those of other runs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from steelman import checkpoint
from steelman.checkpoint import trained_weights
from steelman.data.dataset import Dataset
from steelman.detectors import Rejecting
from steelman.experiments.recipe import Recipe, trained_filters
from steelman.filters.trained import TrainedFilter
from steelman.networks import Ensemble, Filtered

if TYPE_CHECKING:
    from steelman.experiments.run import Run

_RANDOM = ("stochastic_pruning", "self_ensemble", "noisy_blocks", "active_dropout", "draws")
MAY_DIFFER = ("init", "bounded_relu", "filter", "detector", *_RANDOM)
"""Settings of a network that its start may have otherwise: first weights, and what a defence adds to it."""


def begin(model: nn.Module, recipe: Recipe, trained: Mapping[str, "Run"], images: Dataset) -> None:
    """Load the weights of the recipes that a recipe names as `start`, and by `on` those of its filters.

    A detector is then fitted on the training images.
    """
    _start(model, recipe, [trained[name] for name in recipe.starts])
    _fill_filters(model, recipe, trained)
    if isinstance(model, Rejecting) and not model.fitted:
        if recipe.training.epochs or not recipe.starts:
            raise ValueError(
                "network.detector: a detector is fitted to a network that is trained: name that as `start`, and set "
                "training.epochs = 0"
            )
        model.fit(images)


def _start(model: nn.Module, recipe: Recipe, starts: "list[Run]") -> None:
    whole = [start.recipe.network for start in starts] == [recipe.network]
    if isinstance(model, Ensemble) and starts and not whole:
        parts, described = list(model.members), recipe.network["members"]
    else:
        parts, described = [model][: len(starts)], [recipe.network][: len(starts)]
    if len(parts) != len(starts):
        raise ValueError(f"start: {len(starts)} recipes for {len(parts)} networks; an Ensemble has one for each member")
    for part, settings, start in zip(parts, described, starts, strict=True):
        differ = [key for key in settings.keys() | start.recipe.network.keys() if key not in MAY_DIFFER]
        differ = sorted(key for key in differ if settings.get(key) != start.recipe.network.get(key))
        if differ:
            raise ValueError(
                f"this recipe's network is not that of {start.folder}, its start: both need the same "
                f"{', '.join(differ)}, or the start's weights compute something else"
            )
        if isinstance(part, Rejecting) and "detector" not in start.recipe.network:
            part = part.network
        weights, before = trained_weights(start.folder, start.which), start.recipe.network.get("filter")
        if isinstance(part, Filtered) and before != settings.get("filter"):  # the network behind it alone
            part = part.network
            if before is not None:
                own = "network."
                weights = {name.removeprefix(own): each for name, each in weights.items() if name.startswith(own)}
        try:
            checkpoint.fill(part, weights, start.checkpoint)
        except ValueError as error:
            raise ValueError(f"this recipe's network is not that of {start.folder}, its start: {error}") from error


def _fill_filters(model: nn.Module, recipe: Recipe, trained: "Mapping[str, Run]") -> None:
    """Gives filters the networks that the recipes which they name have trained."""
    filters = [each for each in model.modules() if isinstance(each, TrainedFilter)]
    kept = [each for name in recipe.starts for each in trained_filters(trained[name].recipe.network)]
    for settings, filter in zip(trained_filters(recipe.network), filters, strict=True):
        name = settings.get("on")
        if name is not None:
            run = trained[name]
            try:
                checkpoint.fill(filter.network, trained_weights(run.folder, run.which), run.checkpoint)
            except ValueError as error:
                raise ValueError(f"the network of this recipe's filter is not that of {run.folder}: {error}") from error
        elif settings not in kept:
            raise ValueError(
                f"network.filter: {settings['kind']} needs a trained network: name the recipe that trains it by `on`"
            )

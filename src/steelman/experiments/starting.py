"""The weights with which a training begins: those of other runs, or of a file of one's own."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from steelman import checkpoint
from steelman.checkpoint import trained_weights
from steelman.data.dataset import Dataset
from steelman.detectors import Rejecting
from steelman.experiments.recipe import Recipe, trained_filters
from steelman.filters.trained import TrainedFilter
from steelman.loading.form import Picked
from steelman.loading.weights import fill, read_state
from steelman.networks import Ensemble, Filtered, Preprocessed
from steelman.networks.building import device, network_of
from steelman.training.distributed import processes

if TYPE_CHECKING:
    from steelman.experiments.run import Run

_RANDOM = ("stochastic_pruning", "self_ensemble", "noisy_blocks", "active_dropout", "draws")
MAY_DIFFER = ("init", "bounded_relu", "filter", "detector", *_RANDOM)
"""Settings of a network that its start may have otherwise: first weights, and what a defence adds to it."""

WRAPPERS = (Preprocessed, Filtered, Rejecting, Picked)
"""What stands before or around the network that a file of weights is of."""

WEIGHTS = (".pt", ".pth", ".safetensors")


def is_weights(name: str) -> bool:
    """Whether a name is that of a file of weights that belongs to no run."""
    return name.endswith(WEIGHTS) and not (Path(name).parent / "recipe.toml").is_file()


@dataclass(frozen=True)
class Weights:
    """A file of weights as the start of a training, in place of a run: it is read once, and before any training.

    path      a state dict, alone or under `state_dict`, `model` and the like
    settings  the [network] of the recipe that begins from it

    Raises:
        FileNotFoundError, ValueError: as `read_state`.
    """

    path: Path
    settings: Mapping[str, Any]
    state: Mapping[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", read_state(self.path))

    @property
    def folder(self) -> Path:
        """What stands in errors in place of a run's folder."""
        return self.path

    def network(self, like: Dataset) -> nn.Module:
        """The recipe's network with these weights, in evaluation mode."""
        model = network_of(dict(self.settings), like.shape, len(like.classes), fit=like)
        self.into(model)
        return model.to(device()).eval()

    def into(self, model: nn.Module) -> str:
        """Load them into a model, or into the network behind its filter and preprocessing; what was done, in words.

        Raises:
            ValueError: names or shapes do not fit.
        """
        return filled(model, self.state, str(self.path))


def filled(model: nn.Module, state: Mapping[str, Any], where: str) -> str:
    """Load a state dict into a model, or into the network behind what stands before it; what was done, in words.

    Raises:
        ValueError: names or shapes do not fit.
    """
    inner, problem = model, None
    while True:
        try:
            said = fill(inner, state, where)
        except ValueError as error:
            problem = error
        else:
            return ", ".join(each for each in ("" if inner is model else f"into {type(inner).__name__}", said) if each)
        if not isinstance(inner, WRAPPERS):
            raise problem
        inner = inner.network


def begin(
    model: nn.Module, recipe: Recipe, trained: Mapping[str, "Run | Weights"], images: Dataset, announce: bool
) -> None:
    """Load the weights of the recipes or files that a recipe names as `start`, and by `on` those of its filters.

    A detector is then fitted on the training images.

    announce  print how the weights of a file were loaded
    """
    _start(model, recipe, [trained[name] for name in recipe.starts], announce)
    _fill_filters(model, recipe, trained)
    if isinstance(model, Rejecting) and not model.fitted:
        if recipe.training.epochs or not recipe.starts:
            raise ValueError(
                "network.detector: a detector is fitted to a network that is trained: name that as `start`, and set "
                "training.epochs = 0"
            )
        model.fit(images)


def _start(model: nn.Module, recipe: Recipe, starts: "list[Run | Weights]", announce: bool) -> None:
    whole = [_network(start) for start in starts] == [recipe.network]
    if isinstance(model, Ensemble) and starts and not whole:
        parts, described = list(model.members), recipe.network["members"]
    else:
        parts, described = [model][: len(starts)], [recipe.network][: len(starts)]
    if len(parts) != len(starts):
        raise ValueError(f"start: {len(starts)} recipes for {len(parts)} networks; an Ensemble has one for each member")
    for part, settings, start in zip(parts, described, starts, strict=True):
        if isinstance(start, Weights):
            said = start.into(part)
            if announce and processes().first:
                print(f"start: the weights of {start.path}{said and ', '}{said}", file=sys.stderr, flush=True)
            continue
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


def _network(start: "Run | Weights") -> dict[str, Any] | None:
    """The [network] of a run; a file has none."""
    return None if isinstance(start, Weights) else start.recipe.network


def _fill_filters(model: nn.Module, recipe: Recipe, trained: "Mapping[str, Run | Weights]") -> None:
    """Gives filters the networks that the recipes which they name have trained."""
    filters = [each for each in model.modules() if isinstance(each, TrainedFilter)]
    kept = [each for name in recipe.starts for each in trained_filters(_network(trained[name]) or {})]
    for settings, filter in zip(trained_filters(recipe.network), filters, strict=True):
        name = settings.get("on")
        if name is not None:
            run = trained[name]
            if isinstance(run, Weights):
                raise ValueError(f"network.filter: {name} is a file of weights, and `on` names a recipe or a run")
            try:
                checkpoint.fill(filter.network, trained_weights(run.folder, run.which), run.checkpoint)
            except ValueError as error:
                raise ValueError(f"the network of this recipe's filter is not that of {run.folder}: {error}") from error
        elif settings not in kept:
            raise ValueError(
                f"network.filter: {settings['kind']} needs a trained network: name the recipe that trains it by `on`"
            )

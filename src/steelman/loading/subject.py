"""A model with the images on which it is evaluated."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from steelman.adversaries.adversary import Adversary
from steelman.data.dataset import Dataset
from steelman.data.sample import sampled
from steelman.evaluation.battery import Battery
from steelman.networks.preprocess import Preprocessed
from steelman.table.places import Space


@dataclass(frozen=True)
class Subject:
    """A model with the images on which it is evaluated.

    name      how reports call it
    model     from images in [0, 1] to logits; what answers less is a `BlackBox`
    test      all test images, on the model's device
    training  reads the training images, which only some probes ask for
    results   the folder in which its evaluation goes, unless told otherwise
    home      the folder of its run, to which its training curves belong; none for a model from elsewhere
    battery   its own, which its recipe names; none for a model from elsewhere, or where the recipe names no attack
    generator finds the network with which a learned adversary attacks it; none for a model from elsewhere
    data      the class of its data, such as "MNIST", by which radii are chosen
    info      what a reader should know of it
    log       its training, a mapping per epoch
    recipe    its recipe as TOML
    """

    name: str
    model: nn.Module
    test: Dataset
    training: Callable[[], Dataset] = field(repr=False)
    results: Path
    home: Path | None = None
    battery: Battery | None = None
    generator: Callable[[Adversary], nn.Module] | None = field(default=None, repr=False)
    data: str | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    recipe: str = field(default="", repr=False)

    @property
    def space(self) -> Space:
        """Where Deep Defense's measures are taken: behind the preprocessing, where there is one."""
        return "preprocessed" if isinstance(self.model, Preprocessed) else "pixels"

    @property
    def again(self) -> str:
        """The command that evaluates it, where it is a run."""
        if self.home is None:
            return ""
        last = self.home / "last.safetensors"
        return shlex.join(["steelman", "evaluate", str(last if self.results.name.endswith("-last") else self.home)])

    def sample(self, images: int | None) -> Dataset:
        """So many test images, a sample by class that is the same for every model (`sampled`); all for None."""
        return sampled(self.test, images)

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

    name      in reports
    model     from images in [0, 1] to logits; a model without logits or gradient is a `BlackBox`
    test      all test images, on the model's device
    training  reads the training images, which some probes need
    results   the default folder of its evaluation
    home      the folder of its run, which has its training curves; none for a model that is no run
    battery   its recipe's; none for a model that is no run, or where the recipe names no attack
    generator finds the network of a learned adversary of this model; none for a model that is no run
    data      the class of its data, such as "MNIST", by which radii are chosen
    info      facts for the reader of a report
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
        """The space of Deep Defense's measures: after the preprocessing, where there is one."""
        return "preprocessed" if isinstance(self.model, Preprocessed) else "pixels"

    @property
    def again(self) -> str:
        """The command that evaluates it; "" where it is no run."""
        if self.home is None:
            return ""
        last = self.home / "last.safetensors"
        return shlex.join(["steelman", "evaluate", str(last if self.results.name.endswith("-last") else self.home)])

    def sample(self, images: int | None) -> Dataset:
        """A sample of the test images, stratified by class and the same for every model (`sampled`); all for None."""
        return sampled(self.test, images)

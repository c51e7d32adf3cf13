"""The settings of a training (`Training`), and what it returns (`History`)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Interval

from steelman.attacks.core.attack import Attack
from steelman.data.augment import Augmentation
from steelman.optimisers import SGD, Optimiser
from steelman.ranges import Checked, Count, Factor, Natural
from steelman.schedules import Constant, Schedule
from steelman.training.trackers import KINDS


@dataclass(frozen=True)
class Training(Checked):
    """How to train; the `[training]` section of a recipe.

    epochs, batch_size  default 10 and 128; the batch is the global one, shared out over the processes. A last batch of
                        one image goes into the one before where batch normalisation cannot learn from one
    ends                epochs at which the training had ended before it was given more, rising. Up to each of these,
                        schedules take it for the end, and from there on the next one, so that a rate that had fallen
                        rises again. `steelman train` sets it for a finished run that is given more epochs; default none
    iterations          batches in all, in place of `epochs`; the last epoch ends where they do. Default none
    optimiser, schedule default SGD(lr=.1, momentum=.9), Constant(); the schedule is applied before every batch
    augment             default none; applied to whole batches, in order
    ema                 decay of an exponential moving average of the weights, such as .998; it begins with the weights
                        after the first batch, and is validated and returned in place of the raw ones. Default none
    swa                 stochastic weight averaging: from this fraction of the training on, the equal average of the
                        weights after every epoch is validated and returned, with batch normalisation's statistics
                        measured anew on the clean training images. Default none
    seed                decides order, noise, dropout and validation split; the network's first weights are the caller's
    micro_batch         images per descent, to save memory; the update is that of the whole batch. Default the whole
    images              train on so many images only, chosen as the held-out ones are. Default all that are left
    validation          images held out of the training set, a count or a fraction; default none. The best checkpoint is
                        that of the highest accuracy there: under `monitor` if given, otherwise clean
    monitor             attack on the held-out images after every epoch; by ANPGD, the largest mean margin is the best
    patience            stop after so many epochs without a new best on the held-out images (accuracy under `monitor` if
                        given, otherwise clean), and return the best weights. Default none: train to the end
    track_test          so many test images are measured after every epoch (accuracy, rho_2) for convergence curves;
                        they never choose anything. Default 0
    checkpoint_seconds  a checkpoint is written after every epoch and at least this often; default 300
    tensorboard         also write every epoch's numbers for TensorBoard, into the run's folder; default False
    mlflow              also log every epoch's numbers to MLflow, wherever MLFLOW_TRACKING_URI says; default False
    """

    epochs: Natural = 10
    ends: tuple[Count, ...] = ()
    iterations: Count | None = None
    batch_size: Count = 128
    optimiser: Optimiser = SGD()
    schedule: Schedule = Constant()
    augment: tuple[Augmentation, ...] = ()
    ema: Annotated[float, Interval(gt=0, lt=1)] | None = None
    swa: Annotated[float, Interval(ge=0, lt=1)] | None = None
    seed: int = 0
    micro_batch: Count | None = None
    images: Count | None = None
    validation: Annotated[int | float, Ge(0)] = 0
    monitor: Attack | None = None
    patience: Count | None = None
    track_test: Natural = 0
    checkpoint_seconds: Factor = 300.0
    tensorboard: bool = False
    mlflow: bool = False

    def __post_init__(self) -> None:
        if self.ends and (list(self.ends) != sorted({*self.ends}) or self.ends[-1] >= self.epochs):
            raise ValueError(f"ends are epochs before the last, rising; got {self.ends}, and {self.epochs} epochs")
        if self.ends and (self.iterations is not None or self.swa is not None):
            raise ValueError("a training by iterations, or with swa, cannot go on once it has ended: leave out ends")
        if self.swa is not None and self.ema is not None:
            raise ValueError(f"swa averages weights in place of ema: set one; got swa {self.swa} and ema {self.ema}")
        if self.patience is not None and not self.validation:
            raise ValueError("patience counts epochs without a better validation: set validation, such as 0.1")
        if self.monitor is not None and not self.validation:
            raise ValueError("monitor attacks held-out images: set validation, such as 0.1")

    @property
    def trackers(self) -> list[str]:
        """The experiment trackers that are used."""
        return [name for name in KINDS if getattr(self, name)]

    @property
    def for_the_classifier(self) -> list[str]:
        """The settings here that have no effect where the classifier is frozen."""
        names = ("optimiser", "schedule", "ema", "swa", "monitor", "track_test")
        return [name for name in names if getattr(self, name) != getattr(Training(), name)]


@dataclass(frozen=True)
class History:
    """The log of a training, a line per epoch (0 is before training), and the folder with its checkpoints."""

    log: list[dict[str, Any]] = field(default_factory=list)
    folder: Path | None = None

    @property
    def last(self) -> dict[str, Any]:
        return self.log[-1]

    def __repr__(self) -> str:
        line = {key: round(value, 5) if isinstance(value, float) else value for key, value in self.last.items()}
        return f"History({len(self.log)} lines, last {line})"

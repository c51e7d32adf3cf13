"""What every learned adversary is: an attack by a network that was trained for it, and the game that trains it."""

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from steelman.attacks.attack import Attack
from steelman.attacks.mode import evaluation_mode
from steelman.attacks.oracle import Oracle
from steelman.data.dataset import Dataset
from steelman.defences.game import CLASSIFIER, Average, Descend, Game, Player, Step
from steelman.losses import Goal
from steelman.norms import per_image
from steelman.optimisers import SGD, Optimiser
from steelman.randomness import Draws
from steelman.schedules import Constant, Schedule
from steelman.types import Batch, Images, Labels, PerImage, Radius

GENERATOR = "generator"

A = TypeVar("A", bound="Adversary")

Learning: TypeAlias = Generator[Descend | Average | Step, None, Batch]
"""Updates, and at their end the perturbed images, each with its label, of the adversary as it was before."""


@dataclass(frozen=True)
class Adversary(Attack, Game):
    """A network, the generator, that learns to perturb images so that a classifier errs.

    As a game it trains classifier and generator against each other; in `AttackTraining` the generator alone, against a
    frozen classifier. As an attack it needs the trained `generator`. Untargeted only.

    generator  the trained network to attack with: a module, or the folder of a run or its checkpoint as text; None
               (default) is the one being trained. To train from, it is where the generator begins
    optimiser  of the generator
    schedule   factor on its learning rate
    """

    optimal: ClassVar[bool] = False
    batch_size: ClassVar[int] = 128
    """On how many images its authors train it."""

    generator: Any = field(default=None, kw_only=True)
    optimiser: Optimiser = field(default=SGD(lr=0.01), kw_only=True)
    schedule: Schedule = field(default=Constant(), kw_only=True)

    @abstractmethod
    def network(self, shape: Sequence[int], classes: int) -> nn.Module:
        """A fresh generator; its `shape` and `classes` say what it is for."""

    @abstractmethod
    def perturb(self, generator: nn.Module, oracle: Oracle, x: Images, y: Labels, draws: Draws) -> Images:
        """The perturbed images, in the box."""

    @abstractmethod
    def learn(self, nets: nn.ModuleDict, batch: Batch) -> Learning:
        """The generator's share of a batch."""

    def players(self, data: Dataset) -> dict[str, Player]:
        if self.generator is None:
            network = self.network(data.shape, len(data.classes))
        else:
            network = deepcopy(self._trained(data.shape))
        return {GENERATOR: Player(network, self.optimiser, self.schedule)}

    def monitor(self, nets: nn.ModuleDict) -> Attack:
        return self.with_generator(nets[GENERATOR])

    def with_generator(self: A, generator: nn.Module) -> A:
        return replace(self, generator=generator)

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        if goal.target is not None:
            raise ValueError(
                f"{type(self).__name__} has learnt to leave the label, not to reach a target; leave target out, or use "
                "PGD"
            )
        generator = self._trained(tuple(x.shape[1:])).to(x.device)
        with evaluation_mode(generator):
            return self.perturb(generator, oracle, x, goal.labels, draws)

    def _trained(self, shape: Sequence[int]) -> nn.Module:
        if self.generator is None:
            raise ValueError(
                f"{type(self).__name__} has no generator yet: train one (steelman attack-train RUN "
                f"{type(self).__name__}) and give its run's folder as generator="
            )
        generator = _loaded(str(self.generator)) if isinstance(self.generator, str | Path) else self.generator
        if not isinstance(generator, nn.Module):
            raise ValueError(f"generator is a network or the path of a run; got {generator!r}")
        wanted = getattr(generator, "shape", None)
        if wanted is not None and tuple(wanted) != tuple(shape):
            raise ValueError(f"this generator was trained for images of {tuple(wanted)}; these are {tuple(shape)}")
        return generator


@dataclass(frozen=True)
class AttackTraining(Game):
    """Train a learned adversary against the classifier as it is, and leave that alone.

    The generator's share of the adversary's game. Held-out images (`Training.validation`) choose the checkpoint: that
    under which the classifier's accuracy is lowest. The run's folder is then the adversary's `generator`.

    adversary  L2LDA, PGN, AdvGAN or GAP

    Cost: the generator's, as its card says.
    Reference: none, a protocol: Yunseok Jang, Tianchen Zhao, Seunghoon Hong and Honglak Lee train a generator so for
    each classifier that they judge.
    """

    frozen: ClassVar[bool] = True

    adversary: Adversary

    def players(self, data: Dataset) -> dict[str, Player]:
        return self.adversary.players(data)

    def monitor(self, nets: nn.ModuleDict) -> Attack:
        return self.adversary.monitor(nets)

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Iterator[Descend | Average | Step]:
        yield from self.adversary.learn(nets, batch)


def check_radius(eps: Radius) -> None:
    """Raises ValueError where a radius, of one image or of several, is negative or not finite."""
    per_image(eps, torch.zeros(1 if isinstance(eps, float | int) else len(eps), 1))


def answer(network: nn.Module, x: Images) -> Tensor:
    """What a network makes of images, in their type, whatever its own is."""
    return network(x.to(next(network.parameters()).dtype)).to(x.dtype)


def standing_for(value: PerImage, x: Images, slope: Images) -> PerImage:
    """`value`, whose gradient in `x` is `slope`: what a network said of `x`, without going through it again."""
    pull = (x * slope).flatten(1).sum(1)
    return value.detach() + (pull - pull.detach())


def defend(
    net: nn.Module, batch: Batch, made: Batch, clean_weight: float, clip: float | None
) -> Iterator[Descend | Step]:
    """The classifier's share of a batch: one descent on clean and perturbed images, in one forward pass."""
    from steelman.losses import cross_entropy

    losses = cross_entropy(net(torch.cat([batch.x, made.x])), torch.cat([batch.y, made.y]))
    clean, perturbed = losses[: len(batch)].mean(), losses[len(batch) :].mean()
    yield Descend(clean_weight * clean + (1 - clean_weight) * perturbed, net.parameters())
    yield Step(CLASSIFIER, clip)


@lru_cache(maxsize=8)
def _loaded(path: str) -> nn.Module:
    from steelman.runs import Run

    run = Run.open(Path(path))
    return run.player(GENERATOR, run.data("test", None))

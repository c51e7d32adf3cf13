"""What every learned adversary is: an attack by a network that was trained for it, and the game that trains it."""

from abc import abstractmethod
from collections.abc import Generator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from steelman import checkpoint, config
from steelman.attacks.core import Access, Attack, Oracle, evaluation_mode
from steelman.classes import concrete, spelt
from steelman.data.dataset import Dataset
from steelman.defences.game import Average, Descend, Game, Player, Step, Updates
from steelman.forward import logits_of
from steelman.losses import Goal, cross_entropy
from steelman.networks.building import described, description_of
from steelman.norms import Linf, Norm
from steelman.optimisers import SGD, Optimiser
from steelman.randomness import Draws
from steelman.schedules import Constant, Schedule
from steelman.types import CLASSIFIER, Batch, Images, Labels, PerImage, Radius

GENERATOR = "generator"

A = TypeVar("A", bound="Adversary")

Learning: TypeAlias = Generator[Descend | Average | Step, None, Batch]
"""Updates, which return the perturbed images and their labels, made by the adversary as it was before them."""


@dataclass(frozen=True)
class Adversary(Attack, Game):
    """A network, the generator, that learns to perturb images so that a classifier errs.

    As a game it trains classifier and generator against each other; in `AttackTraining` the generator alone, against a
    frozen classifier. As an attack it needs the trained `generator`. Untargeted only.

    generator  the trained network to attack with: a module, or as text the folder of a run or its checkpoint, from
               which only this network is taken; None (default) is the one being trained. As a game, the weights from
               which training starts
    optimiser  of the generator
    schedule   factor on its learning rate
    """

    batch_size: ClassVar[int] = 128
    """The number of images in its authors' batches."""
    sees: ClassVar[tuple[str, ...]] = ()
    """The settings that decide the generator's inputs, which are the same in training and in an attack."""

    generator: Any = field(default=None, kw_only=True)
    optimiser: Optimiser = field(default=SGD(lr=0.01), kw_only=True)
    schedule: Schedule = field(default=Constant(), kw_only=True)

    @abstractmethod
    def network(self, shape: Sequence[int], classes: int) -> nn.Module:
        """A fresh generator, with its images' `shape` and its `classes` (None for any)."""

    @abstractmethod
    def perturb(self, generator: nn.Module, oracle: Oracle, x: Images, y: Labels, draws: Draws) -> Images:
        """The perturbed images, in the box."""

    @abstractmethod
    def learn(self, nets: nn.ModuleDict, batch: Batch) -> Learning:
        """The generator's share of a batch."""

    def players(self, data: Dataset) -> dict[str, Player]:
        shape, classes = data.shape, len(data.classes)
        if self.generator is None:
            made = {"kind": f"{__name__}:{generator_of.__name__}", "adversary": config.write(self)}
            network = described(self.network(shape, classes), made, shape, classes)
        else:
            network = deepcopy(self._trained(shape, classes))
        return {GENERATOR: Player(network, self.optimiser, self.schedule)}

    def monitor(self, nets: nn.ModuleDict) -> Attack:
        return self.with_generator(nets[GENERATOR])

    def with_generator(self: A, generator: nn.Module) -> A:
        return replace(self, generator=generator)

    def check_input(self, x: Images, targeted: bool, classes: int | None) -> None:
        if targeted:
            raise ValueError(f"{type(self).__name__} has no targeted form; leave target out, or use PGD")
        self._trained(tuple(x.shape[1:]), 0)

    def search(self, oracle: Oracle, x: Images, goal: Goal, draws: Draws) -> Images:
        generator = self._trained(tuple(x.shape[1:]), 1 + int(goal.labels.max()) if len(x) else 0).to(x.device)
        with evaluation_mode(generator):
            return self.perturb(generator, oracle, x, goal.labels, draws)

    def refuse_other(self, generator: nn.Module, what: str) -> None:
        """Raises ValueError for a generator that is known to be another adversary's, or to have had other inputs."""
        description, name = description_of(generator), type(self).__name__
        theirs = {} if description is None else description.network.get("adversary", {})
        if theirs and theirs["kind"] not in map(spelt, concrete(type(self)).values()):
            raise ValueError(f"{what} is that of {theirs['kind']}, and {name} needs its own: {self._remedy}")
        known = [each for each in self.sees if each in theirs]
        other = [f"{each}={theirs[each]!r}" for each in known if theirs[each] != config.write(getattr(self, each))]
        if other:
            raise ValueError(f"{what} was trained with {', '.join(other)}: {name} needs that too")

    @property
    def _remedy(self) -> str:
        return f"train one (steelman attack-train RUN {type(self).__name__}) and give its run's folder as generator"

    def _trained(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The generator that was given, for images of this shape and at least so many classes."""
        if self.generator is None:
            raise ValueError(f"{type(self).__name__} has no generator yet: {self._remedy}")
        generator, what = self.generator, "this generator"
        if isinstance(generator, str | Path):
            generator, what = checkpoint.shared_network(generator, GENERATOR), f"the generator of {generator}"
        if not isinstance(generator, nn.Module):
            raise ValueError(f"generator is a network or the path of a run; got {generator!r}")
        self.refuse_other(generator, what)
        theirs, most = getattr(generator, "shape", shape), getattr(generator, "classes", None)
        if tuple(theirs) != tuple(shape):
            raise ValueError(
                f"this generator was trained for images of {tuple(theirs)}; these are {tuple(shape)}: train one on such"
            )
        if most is not None and most < classes:
            raise ValueError(
                f"this generator was trained for {most} classes; here are {classes} or more: train one on such"
            )
        return generator

    def in_box(self, x: Images) -> Images:
        return x if self.box is None else x.clamp(*self.box)


class OnePass(Adversary):
    """An adversary whose generator sees the image alone, and perturbs it in one pass, within a ball in Linf."""

    access: ClassVar[Access] = "decisions"
    norm: ClassVar[Norm] = Linf
    eps: Radius
    clean_weight: float

    @abstractmethod
    def perturbed(self, x: Images, raw: Tensor) -> Images:
        """The images in the box and, but for rounding, in the ball, from the generator's answer."""

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        made = yield from self.learn(nets, batch)
        yield from defend(nets[CLASSIFIER], batch, made, self.clean_weight)

    def perturb(self, generator: nn.Module, oracle: Oracle, x: Images, y: Labels, draws: Draws) -> Images:
        oracle.decisions(x)  # refuses a model with invalid answers
        return Linf.contain(x, self.perturbed(x, answer(generator, x)), self.eps, self.box)


@dataclass(frozen=True)
class AttackTraining(Game):
    """Train a learned adversary's generator against a classifier that stays as it is.

    Of the adversary's game only the generator's share is played. Held-out images (`Training.validation`) choose the
    checkpoint: that under which the classifier's accuracy on them is lowest. The run's folder is then what an attack
    takes as `generator`. `steelman attack-train` makes such a run of any other one; in a recipe, `start` is the
    classifier.

    adversary  L2LDA, PGN, AdvGAN or GAP. Its `generator`, where it has one, is what training goes on from

    Cost: the adversary's in training, without the classifier's own descent.
    Reference: Shumeet Baluja and Ian Fischer, "Adversarial transformation networks: learning to generate adversarial
    examples", arXiv 2017, 1703.09387; Yunseok Jang, Tianchen Zhao, Seunghoon Hong and Honglak Lee, "Adversarial defense
    via learning to generate diverse attacks", ICCV 2019, experiments.
    """

    frozen: ClassVar[bool] = True

    adversary: Adversary

    def players(self, data: Dataset) -> dict[str, Player]:
        return self.adversary.players(data)

    def monitor(self, nets: nn.ModuleDict) -> Attack:
        return self.adversary.monitor(nets)

    def updates(self, nets: nn.ModuleDict, batch: Batch) -> Updates:
        yield from self.adversary.learn(nets, batch)


def answer(network: nn.Module, x: Images, *others: Tensor | None) -> Tensor:
    """What a network of any type makes of images, and of other inputs, in the images' type."""
    dtype, floats = next(network.parameters()).dtype, torch.is_floating_point
    given = (each if each is None or not floats(each) else each.to(dtype) for each in (x, *others))
    return network(*given).to(x.dtype)


def with_gradient(value: PerImage, x: Images, slope: Images) -> PerImage:
    """`value` with the gradient `slope` in `x`: a network's answer for `x`, without another pass through it."""
    pull = (x * slope).flatten(1).sum(1)
    return value.detach() + (pull - pull.detach())


def defend(net: nn.Module, batch: Batch, made: Batch, clean_weight: float, clip: float | None = None) -> Updates:
    """The classifier's share of a batch: one descent on clean and perturbed images, in one forward pass."""
    losses = cross_entropy(logits_of(net, torch.cat([batch.x, made.x])), torch.cat([batch.y, made.y]))
    clean, perturbed = losses[: len(batch)].mean(), losses[len(batch) :].mean()
    yield Descend(clean_weight * clean + (1 - clean_weight) * perturbed, net.parameters())
    yield Step(CLASSIFIER, clip)


def generator_of(adversary: dict[str, Any], shape: Sequence[int], classes: int) -> nn.Module:
    """A fresh generator of an adversary as a recipe writes it: checkpoints name this function."""
    return config.read(Adversary, adversary).network(shape, classes)

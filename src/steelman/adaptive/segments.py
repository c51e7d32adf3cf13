"""A model's call cut into segments between the ends of its submodules' calls, each with its own gradient tested."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from steelman.adaptive.calls import ANSWER, IMAGES, ArraysOfGraphs, Place, visited
from steelman.forward import classes_of, lent, unwrapped
from steelman.randomness import Draws, combine
from steelman.types import Images, PerImage

NOISES = (0.01, 0.1)
"""Noise on the images, uniform within so many parts of their range, under which gradients are tested."""

TAU = 0.7
"""A gradient is right where it explains this share of the change under noise (1 - residual / variance), or more."""

RARE = 0.01
"""The share of images on which a gradient may be NaN or infinite."""


class OutOfReach(Exception):
    """Raised where hooks cannot make gradients pass, as in inference mode."""


@dataclass
class Run:
    """One call, cut at every place: tensors there, and for each the gradient of a random sum of it, place by place.

    A place's gradient is with respect to the earlier places from which the tensor there was made directly: by one
    submodule, or by code between two of them.
    """

    values: dict[Place, Tensor] = field(default_factory=dict)
    slopes: dict[Place, dict[Place, Tensor]] = field(default_factory=dict)
    same: dict[Place, Place] = field(default_factory=dict)
    """Places at which an earlier place's tensor arrived as it was."""


@dataclass(frozen=True)
class Inner:
    """How a model uses gradients itself.

    own     places before its last backward pass, in descents of its own, such as those of Defense-GAN
    first   the first place after these
    silent  whether it switches gradients off after these
    numbers how many numbers an image makes at all places
    """

    own: frozenset[Place]
    first: Place
    silent: bool
    numbers: int


def inner_gradients(model: nn.Module, x: Images) -> Inner:
    """One call as it is.

    Raises:
        OutOfReach: a part of it runs in inference mode.
    """
    places: list[tuple[Place, bool]] = [(IMAGES, True)]
    last = numbers = 0

    def used(_: Tensor) -> None:
        nonlocal last
        last = len(places)

    def see(place: Place, tensor: Tensor) -> None:
        nonlocal numbers
        if tensor.is_inference():
            raise OutOfReach
        places.append((place, torch.is_grad_enabled()))
        numbers += tensor.numel() // len(x)
        if tensor.requires_grad:
            tensor.register_hook(used)

    with torch.enable_grad(), visited(model, see):
        answer = unwrapped(model(lent(x, model)))
    if answer.is_inference():
        raise OutOfReach
    first = places[last][0] if last < len(places) else IMAGES
    own = frozenset(place for place, _ in places[:last])
    return Inner(own - {IMAGES}, first, not all(on for _, on in places[last:]), max(numbers, 1))


def cut_run(model: nn.Module, x: Images, seed: int, own: frozenset[Place], weights: "Weights | None") -> Run:
    """One call in which each place is a new beginning of the graph; no gradients without `weights`."""
    run = Run()
    leaves: dict[Place, Tensor] = {}
    handed: dict[int, tuple[Place, Tensor, tuple[int, object]]] = {}

    def see(place: Place, tensor: Tensor) -> Tensor | None:
        if place in own:
            return None
        if tensor.is_inference():
            raise OutOfReach
        known = handed.get(id(tensor))
        if known is not None and known[2] == _state(tensor) and place != ANSWER:
            run.same[place] = known[0]
            return None
        if tensor.ndim < 2 or len(tensor) != len(x):
            return None
        torch.set_grad_enabled(True)
        run.values[place] = tensor.detach().clone()
        if weights is not None:
            run.slopes[place] = _slopes(tensor, weights.of(place, tensor), leaves)
        leaf = tensor.detach().clone().requires_grad_()
        given = leaf.clone()
        leaves[place], handed[id(given)] = leaf, (place, given, _state(given))
        return given

    with torch.enable_grad(), ArraysOfGraphs(), visited(model, see):
        torch.manual_seed(seed)
        given = see(IMAGES, lent(x, model))
        answer = unwrapped(model(given))
    if answer.is_floating_point():
        see(ANSWER, answer)
    else:
        run.values[ANSWER] = answer
    return run


def _state(tensor: Tensor) -> tuple[int, object]:
    """What changes when something writes into a tensor, or a `torch.autograd.Function` returns it."""
    return tensor._version, tensor.grad_fn


def _slopes(tensor: Tensor, weights: Tensor, leaves: dict[Place, Tensor]) -> dict[Place, Tensor]:
    if not tensor.requires_grad or not leaves:
        return {}
    try:
        found = torch.autograd.grad(
            (tensor * weights).sum(), list(leaves.values()), retain_graph=True, allow_unused=True
        )
    except RuntimeError:  # such as a graph that the model has used up itself
        return {}
    return {place: slope for place, slope in zip(leaves, found, strict=True) if slope is not None}


@dataclass(frozen=True)
class Weights:
    """A random sum of a tensor for each place and image, the same in all runs."""

    seed: int

    def of(self, place: Place, like: Tensor) -> Tensor:
        number = zlib.crc32(f"{self.seed} {place.name} {place.turn} {place.side}".encode())
        generator = torch.Generator(like.device).manual_seed(number)
        return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class Segments:
    """Runs of a model on images and on noisy copies of these; the last is halfway between the images."""

    places: tuple[Place, ...]
    base: Run
    again: Run
    others: tuple[Run, ...]
    weights: Weights
    known: dict[Place, bool]
    """The answers of `right` until now."""

    @staticmethod
    def of(model: nn.Module, x: Images, seed: int, own: frozenset[Place]) -> "Segments":
        """Cost: 5 forward and 4 gradient passes."""
        weights = Weights(seed)
        base = cut_run(model, x, seed, own, weights)
        again = cut_run(model, x, seed, own, None)
        others = tuple(cut_run(model, each, seed, own, weights) for each in noisy(x, seed))
        shapes = [{place: value.shape for place, value in run.values.items()} for run in (base, again, *others)]
        if any(each != shapes[0] for each in shapes):
            raise OutOfReach
        return Segments(tuple(base.values), base, again, others, weights, {})

    def change(self, place: Place, run: Run) -> Tensor:
        return (run.values[place] - self.base.values[place]).flatten(1).double()

    def right(self, place: Place) -> bool:
        """Whether the gradient to it from the places before explains its changes, as far as these can be seen."""
        if place not in self.known:
            value, weights = self.base.values[place], self.weights.of(place, self.base.values[place])

            def project(run: Run) -> PerImage:
                return (run.values[place].double() * weights.double()).flatten(1).sum(1)

            at = project(self.base)
            changes = [(project(run) - at, lambda run=run: self._expected(place, run)) for run in self.others]
            self.known[place] = agrees(at, project(self.again) - at, changes, torch.finfo(value.dtype).eps)
        return self.known[place]

    def _expected(self, place: Place, run: Run) -> PerImage:
        """The change by the trapezoid rule."""
        expected = torch.zeros_like(run.values[place].flatten(1)[:, 0], dtype=torch.float64)
        for each in (self.base, run):
            for source, slope in each.slopes.get(place, {}).items():
                expected += 0.5 * (slope.flatten(1).double() * self.change(source, run)).sum(1)
        return expected

    def own_likeness(self, place: Place) -> float:
        """The correlation of changes with those that the gradient explains, under coarse noise."""
        weights = self.weights.of(place, self.base.values[place]).flatten(1).double()
        found = []
        for run in self.others[1:]:
            change = (self.change(place, run) * weights).sum(1)
            found.append(likeness(change, self._expected(place, run).nan_to_num(0.0, 0.0, 0.0)))
        return sum(found) / len(found)

    def likeness(self, sources: tuple[Place, ...], place: Place) -> float:
        """The cosine between the changes at a place and the sum of those at others, as many, under coarse noise."""
        found = [likeness(self._sum(sources, run), self.change(place, run)) for run in self.others[1:]]
        return sum(found) / len(found)

    def concordance(self, sources: tuple[Place, ...], place: Place) -> float:
        """The share of the changes at a place that have the sign of those at others, which is 1 of a step of their sum,
        less the share of those that have the opposite one."""
        found = []
        for run in self.others[1:]:
            change = self.change(place, run)
            share = (change * self._sum(sources, run).sign()).sum() / change.abs().sum().clamp(min=1e-300)
            found.append(float(share.nan_to_num(0.0)))
        return sum(found) / len(found)

    def _sum(self, sources: tuple[Place, ...], run: Run) -> Tensor:
        return torch.stack([self.change(source, run) for source in sources]).sum(0)

    def agreement(self, places: tuple[Place, ...]) -> float:
        """The share of answers whose class is the largest in the sum at some places; 0 where that has no classes."""
        agree = []
        for run in (self.base, *self.others):
            found, answer = torch.stack([run.values[place] for place in places]).sum(0), run.values[ANSWER]
            if found.ndim != 2 or found.shape[1] < 2 or (answer.ndim == 2 and found.shape != answer.shape):
                return 0.0
            if not bool(found.isfinite().all()):
                return 0.0
            agree.append(found.argmax(1) == classes_of(answer))
        return float(torch.cat(agree).double().mean())


def noisy(x: Images, seed: int) -> list[Images]:
    """The images with noise, from little to much, and halfway to one another."""
    low, high = float(x.amin()), float(x.amax())
    draws = Draws(combine(torch.arange(len(x), device=x.device), seed, 1))
    noise = [
        size * (high - low) * (2 * draws.split(k).uniform(x.shape[1:], x.dtype) - 1) for k, size in enumerate(NOISES)
    ]
    return [*((x + each).clamp(low, high) for each in noise), x + 0.5 * (x.roll(1, 0) - x)]


def explained(change: Tensor, expected: Tensor) -> float:
    """1 - |change - expected|^2 / |change|^2."""
    return 1 - float((change - expected).square().sum() / change.square().sum().clamp(min=1e-300))


def likeness(first: Tensor, second: Tensor) -> float:
    """The cosine of the angle between all numbers of two tensors; 0 where one is 0."""
    size = first.norm() * second.norm()
    return float((first * second).sum() / size) if size > 0 and bool(size.isfinite()) else 0.0


def agrees(
    value: PerImage, again: PerImage, changes: list[tuple[PerImage, Callable[[], PerImage]]], eps: float
) -> bool:
    """Whether gradients explain changes, under each noise and, where these show none, between images.

    A change is not asked about where it is lost in rounding, or in what two runs on the same images differ by.

    value    a number per image
    again    its change in a second run on the same images
    changes  its change under each noise and at last towards another image, and what gradients make of that
    eps      of the type in which it was computed
    """
    floor = max(1e3 * eps * _rms(value), 2 * _rms(again))
    asked = 0
    for number, (change, expected) in enumerate(changes):
        if _rms(change) <= floor or (asked and number == len(NOISES)):
            continue
        found = expected()
        finite = found.isfinite()
        if float((~finite).double().mean()) > RARE or explained(change[finite], found[finite]) < TAU:
            return False
        asked += 1
    return True


def _rms(numbers: PerImage) -> float:
    return float(numbers.square().mean().sqrt())

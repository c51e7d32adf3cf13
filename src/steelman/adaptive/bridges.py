"""Which gradients of a model are passed on, past the parts that hide or falsify them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from steelman.adaptive.calls import ANSWER, IMAGES, Place, visited
from steelman.adaptive.segments import Segments, likeness, noisy
from steelman.adaptive.stand_in import StandIn, fitted
from steelman.forward import lent, unwrapped
from steelman.types import Images

RECENT = 3
"""How many of the places before are tried for an identity, beside the images."""

WEAK = 0.2
"""Below this cosine between changes, more than the nearest identity is tried."""

SIMPLER = 0.003
"""How much larger the concordance with a sum must be for each source more."""

COPIES = 3
"""How many noisy copies of each kind a stand-in is fitted on."""


@dataclass(frozen=True)
class Bridge:
    """Where the gradient is passed on: at `target` it is that of the sum of `sources`, past what is between.

    stand_in  the number of the stand-in whose gradient it is, of a single source; None: the identity
    """

    sources: tuple[Place, ...]
    target: Place
    stand_in: int | None = None


@dataclass(frozen=True)
class Crossing:
    """A bridge that could be built, with the cosine between its changes and the true ones."""

    sources: tuple[Place, ...]
    target: Place
    likeness: float
    stand_in: StandIn | None = None
    share: float = 0.0
    """Of the stand-in: R^2 on held-out pairs."""


def crossings_of(model: nn.Module, x: Images, segments: Segments, head: Place, seed: int) -> list[Crossing]:
    """What gradients from `head` to the images are passed on by."""
    built: dict[Place, Crossing] = {}
    places = segments.places[: segments.places.index(head) + 1]
    for number, place in enumerate(places[1:], 1):
        if not segments.right(place):
            found = _best(model, x, segments, places[:number], place, seed)
            if found is not None:
                built[place] = found
    used = _used(segments, built, head)
    weakest = min((each.likeness for each in used), default=0.0)
    if weakest < WEAK:
        on_images = [
            place for place in places[1:] if segments.base.values[place].shape == segments.base.values[IMAGES].shape
        ]
        jumps = [Crossing((IMAGES,), place, segments.likeness((IMAGES,), place)) for place in on_images]
        best = max(jumps, key=lambda each: each.likeness, default=None)
        if best is not None and best.likeness > max(weakest, 0.0):
            used = _used(segments, {**built, best.target: best}, head)
    return used


def _used(segments: Segments, built: dict[Place, Crossing], head: Place) -> list[Crossing]:
    """Those that a gradient from the head meets, from the images on."""
    found: dict[Place, Crossing] = {}
    left, met = [head], set[Place]()
    while left:
        place = left.pop()
        if place in met:
            continue
        met.add(place)
        if place in built:
            found[place] = built[place]
            left += built[place].sources
        else:
            left += segments.base.slopes.get(place, {})
    return [found[place] for place in segments.places if place in found]


def _best(
    model: nn.Module, x: Images, segments: Segments, before: tuple[Place, ...], place: Place, seed: int
) -> Crossing | None:
    size = segments.base.values[place][0].numel()
    same = [each for each in before if segments.base.values[each][0].numel() == size]
    singles = [(each,) for each in dict.fromkeys([*reversed(same[-RECENT:]), *same[:1]])]
    used = {source for slopes in segments.base.slopes.values() for source in slopes}
    sums = [(same[-1], each) for each in same[-1 - RECENT : -1]] + [tuple(each for each in same if each not in used)]
    options = [Crossing(each, place, segments.likeness(each, place)) for each in singles + sums if each]

    def worth(option: Crossing) -> float:
        agreement = segments.agreement(option.sources) if place == ANSWER else 0.0
        return agreement + segments.concordance(option.sources, place) - SIMPLER * (len(option.sources) - 1)

    best = max(options, key=worth, default=None)
    if best is None or best.likeness < WEAK:
        for source in dict.fromkeys([before[-1], IMAGES]):
            if (source, place) == (IMAGES, ANSWER):
                continue  # that is no part of a model, but another model
            made = _stand_in(model, x, segments, source, place, seed)
            if made is not None and (best is None or made.likeness > best.likeness):
                best = made
            if best is not None and best.likeness >= WEAK:
                break
    if best is None or best.likeness <= segments.own_likeness(place) + 0.05:
        return None
    return best


def _stand_in(
    model: nn.Module, x: Images, segments: Segments, source: Place, target: Place, seed: int
) -> Crossing | None:
    given, made = [], []
    for number in range(COPIES):
        for images in (x, *noisy(x, seed + 1 + number))[min(number, 1) :]:
            torch.manual_seed(seed)
            ends = tensors_at(model, images, {source, target})
            if len(ends) < 2:
                return None
            given.append(ends[source])
            made.append(ends[target])
    torch.manual_seed(seed)
    try:
        network, share = fitted(torch.stack(given, 1).flatten(0, 1), torch.stack(made, 1).flatten(0, 1))
    except ValueError:
        return None
    runs = segments.others[1:]
    with torch.no_grad():
        start = network(segments.base.values[source])
        moves = [(network(run.values[source]) - start).flatten(1).double() for run in runs]
    found = [likeness(move, segments.change(target, run)) for move, run in zip(moves, runs, strict=True)]
    return Crossing((source,), target, sum(found) / len(found), network, share)


@torch.no_grad()
def tensors_at(model: nn.Module, x: Images, places: set[Place]) -> dict[Place, Tensor]:
    """The tensors at some places of a call, among them perhaps the images and the answer."""
    found = {IMAGES: x} if IMAGES in places else {}

    def see(place: Place, tensor: Tensor) -> None:
        if place in places:
            found[place] = tensor.clone()

    with visited(model, see, {place.name for place in places}):
        answer = unwrapped(model(lent(x, model)))
    if ANSWER in places and answer.is_floating_point():
        found[ANSWER] = answer
    return found


def sentences(model: nn.Module, segments: Segments, head: Place, crossings: list[Crossing], waking: bool) -> list[str]:
    """What was assumed, for a reader who would repeat it."""
    found = []
    if head != ANSWER:
        later = [place for place in segments.places if place.side == "output"]
        later = later[later.index(head) + 1 :] if head in later else later
        kinds = dict.fromkeys(_module(model, place.name) for place in later if place.name and place.name != head.name)
        before = f"before {', '.join(list(kinds)[:3])}" if kinds else "before what the model makes of them"
        found.append(f"logits are read at {_place(model, head)}, {before}")
    if waking:
        found.append("gradients are kept on where the model switches them off")
    through = [each for each in crossings if each.stand_in is None and _own(segments, each)]
    if through:
        names = ", ".join(dict.fromkeys(_module(model, each.target.name) for each in through))
        found.append(f"identity through {len(through)} module{'s' * (len(through) > 1)}: {names}")
    for each in crossings:
        way = f"from {' plus '.join(_place(model, end) for end in each.sources)} to {_place(model, each.target)}"
        if each.stand_in is not None:
            where = _module(model, each.target.name) if _own(segments, each) else f"the way {way}"
            shapes = [_shape(segments.base.values[end]) for end in (*each.sources, each.target)]
            share = f"{each.share:.2f}".replace("0.", ".")
            found.append(f"a fitted stand-in for {where}: {shapes[0]} to {shapes[1]}, R^2 {share}")
        elif each not in through:
            found.append(f"identity {way}")
    return found


def _own(segments: Segments, crossing: Crossing) -> bool:
    """Whether it goes past one submodule."""
    target = crossing.target
    given = Place(target.name, target.turn, "input")
    return target.side == "output" and bool(target.name) and (segments.base.same.get(given, given),) == crossing.sources


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape[1:]))


def _module(model: nn.Module, name: str) -> str:
    return f"`{name}` ({type(model.get_submodule(name)).__name__})"


def _place(model: nn.Module, place: Place) -> str:
    ends: dict[tuple[str, Literal["input", "output"]], str] = {
        ("", "input"): "the images",
        ("", "output"): "the answer",
    }
    turn = f" (call {place.turn + 1})" * bool(place.turn)
    return ends.get((place.name, place.side)) or f"the {place.side} of {_module(model, place.name)}{turn}"

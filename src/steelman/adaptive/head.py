"""The layer at which a model's logits are read: the last before something that only hides them."""

import torch
from torch import Tensor

from steelman.adaptive.calls import ANSWER, IMAGES, Place
from steelman.adaptive.segments import Run, Segments
from steelman.forward import are_probabilities

AGREE = 0.97
"""The share of answers whose class a layer must have, to be the logits of a model. Rounded scores have ties."""

FLATTER = 0.01
"""A part of an answer's slopes, per image, may be this much smaller than the largest; less is saturation."""


def head_of(segments: Segments) -> Place:
    """The place of the logits: the answer, unless what makes it of a layer's logits hides them.

    A layer's logits are numbers for as many classes, whose largest is the answer's class on the images and their noisy
    copies. They are hidden where the answer is classes, probabilities or not finite; where the gradient on the way is
    wrong; or where equal changes of the logits change the answer of some images `FLATTER` times less than that of
    others, as behind a saturated softmax.
    """
    head = ANSWER
    places = [place for place in segments.places if place not in (IMAGES, ANSWER)]
    broken = False
    for number in range(len(places) - 1, -1, -1):
        later = ANSWER if number == len(places) - 1 else places[number + 1]
        broken = broken or not _differentiable(segments, later)
        if segments.agreement((places[number],)) >= AGREE and (broken or _hidden(segments, head, places[number])):
            head, broken = places[number], False
    return head


def _runs(segments: Segments) -> tuple[Run, ...]:
    return segments.base, *segments.others


def _differentiable(segments: Segments, place: Place) -> bool:
    return segments.base.values[place].is_floating_point() and segments.right(place)


def _hidden(segments: Segments, head: Place, place: Place) -> bool:
    values = [run.values[head] for run in _runs(segments)]
    if not all(each.is_floating_point() and bool(each.isfinite().all()) for each in values):
        return True
    if all(map(are_probabilities, values)):
        return True
    ratios = []
    for run in segments.others:
        change, made = (_without_mean(run.values[each] - segments.base.values[each]) for each in (place, head))
        moved = change > 1e-6 * segments.base.values[place].abs().amax()
        ratios.append((made / change)[moved])
    ratio = torch.cat(ratios)
    if not len(ratio):
        return False
    least, most = ratio.quantile(0.05), ratio.quantile(0.95)
    return bool(least < FLATTER * most)


def _without_mean(logits: Tensor) -> Tensor:
    """The size of differences between classes."""
    return (logits - logits.mean(1, keepdim=True)).norm(dim=1)

"""What a model takes as its input and which of its classes are the data's, as far as its file or library says."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steelman.attacks.core.mode import in_training
from steelman.data.dataset import Dataset
from steelman.networks.input_form import UNIT, Form, InputForm
from steelman.networks.preprocess import Normalise, Preprocessed


def range_of(text: str) -> tuple[float, float]:
    """The two numbers of a range such as 0..255 or -1..1; ValueError for another text."""
    low, dots, high = text.partition("..")
    try:
        found = float(low), float(high)
    except ValueError:
        found = (0.0, 0.0)
    if not dots or not -torch.inf < found[0] < found[1] < torch.inf:
        raise ValueError(f"{text!r} is no range: give the numbers of black and white, such as 0..1, 0..255 or -1..1")
    return found


def guessed(what: object, shape: Sequence[int | None], like: Sequence[int], layout: str | None, whole: bool) -> Form:
    """The form of an input whose shape a file tells: (batch, channels, height, width) or channels last.

    shape   None for a length that may be any
    like    the shape of one image of the data, by which the layout is chosen where both are possible
    layout  where the user says it
    whole   it takes bytes, so 0 .. 255

    Raises:
        ValueError: neither layout has the channels of the data.
    """
    sides, channels = tuple(shape[1:]), like[0]
    swapped = {"NCHW": sides, "NHWC": (sides[-1], *sides[:-1])}
    fits = {
        name: (each[0] in (None, channels) or (channels == 1 and each[0] == 3), each[0] is not None, _agree(each, like))
        for name, each in swapped.items()
    }
    possible = [name for name in (layout,) if name] or [name for name, (own, *_) in fits.items() if own]
    if len(sides) != 3 or not possible or not fits[possible[0]][0]:
        raise ValueError(
            f"{what} takes images of shape ({', '.join(str(each or 'any') for each in shape)}), and these data are "
            f"(batch, {', '.join(map(str, like))}): export it for such images, or give other --data"
        )
    best = max(possible, key=lambda name: fits[name][:0:-1])  # by size, then by channels; else channels first
    own = swapped[best]
    size = None if None in own[1:] else (int(own[1] or 0), int(own[2] or 0))
    unit = (0.0, 255.0) if whole else UNIT
    return Form(size=size, channels=own[0], layout=best, range=unit, whole=whole)  # pyright: ignore[reportArgumentType]


def _agree(shape: Sequence[int | None], like: Sequence[int]) -> bool:
    return all(own in (None, other) for own, other in zip(shape, like, strict=True))


def adapted(model: nn.Module, form: Form, like: Dataset) -> tuple[nn.Module, str]:
    """The model behind what makes its input of such images, and what that does, in words ("" for nothing).

    Raises:
        ValueError: the images have other channels than the model takes.
    """
    layer = InputForm(form, like.shape)
    if not layer.said:
        return model, ""
    made = Normalise(shape=like.shape, mean=form.mean, std=form.std) if _only_normalises(layer) else layer
    return Preprocessed(made, model).train(in_training(model)), ", ".join(layer.said)


def preprocess_of(form: Form, like: Dataset) -> dict[str, Any] | None:
    """The same layer as a recipe's network.preprocess; None where nothing has to be done.

    Raises:
        ValueError: as `adapted`.
    """
    layer = InputForm(form, like.shape)
    if not layer.said:
        return None
    if _only_normalises(layer):
        return {"kind": "Normalise", "mean": list(form.mean or ()), "std": list(form.std or ())}
    return {"kind": "InputForm", **form.settings}


def _only_normalises(layer: InputForm) -> bool:
    return len(layer.said) == 1 and layer.form.mean is not None


class Picked(nn.Module):
    """A model's logits, unwrapped; of them those of the classes `places`, in that order, where these are given.

    outputs  how many the model has; default: as many as it is asked for
    """

    def __init__(self, network: nn.Module, places: Sequence[int] | None = None, outputs: int | None = None) -> None:
        super().__init__()
        self.network, self.outputs = network, outputs
        self.places = None if places is None else tuple(places)

    def forward(self, x: Tensor) -> Tensor:
        answer = self.network(x)
        logits = answer if isinstance(answer, Tensor) else answer.logits
        return logits if self.places is None else logits[:, list(self.places)]


def picked(network: nn.Module, what: str, names: Sequence[str], like: Dataset) -> tuple[nn.Module, str]:
    """A model with the data's classes, in the data's order, and how they were matched, in words.

    names  of the model's classes, in its order

    By name where each of the data's classes has one class of the model (without regard to case; of names with commas
    the first counts); else in order, where there are as many.

    Raises:
        ValueError: another number of classes, and other names.
    """
    folded = [_folded(name) for name in names]
    wanted = [_folded(name) for name in like.classes]
    if len({*wanted}) == len(wanted) and all(folded.count(name) == 1 for name in wanted):
        places = [folded.index(name) for name in wanted]
        if places == list(range(len(names))):
            return Picked(network), ""
        some = (
            "" if len(names) == len(places) else f"the {len(places)} classes of the data, of the model's {len(names)}, "
        )
        return Picked(network, places, len(names)), f"{some}matched by name"
    if len(names) == len(wanted):
        numbers = all(re.fullmatch(r"(label[_ ])?\d+", each) for each in folded)
        return Picked(network), "" if numbers else "in the model's order, since their names are not the data's"
    raise ValueError(
        f"{what} has {len(names)} classes ({_some(names)}), and the data have {len(like.classes)} "
        f"({_some(like.classes)}): give other --data, whose classes have the same names, or a model of these classes"
    )


def _folded(name: str) -> str:
    return name.partition(",")[0].strip().lower().replace("_", " ")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

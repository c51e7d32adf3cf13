"""The one place where a model is called: its input, and the checks of its answer."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from steelman.losses import cross_entropy, margin
from steelman.types import Images, Labels, Logits, Model, PerImage

_OTHER_TYPE = re.compile(r"dtype|scalar type|should be the same|same type", re.IGNORECASE)
"""Torch's messages about images and weights of incompatible types."""

REJECTED = -1
"""Stands in tables for the class that means "rejected"."""


class Forward:
    """Calls a model. It is made once for many calls, all of one mode.

    - The model may write into its images: it gets a copy at the first call, and afterwards if it wrote into that.
    - Images are cast to the type of its parameters, where these have one type.
    - Logits are cast to the type of the images, at least to float32.
    - An object with `.logits`, a mapping with "logits", and a tuple or list that begins with the logits are unwrapped.
    - It is not called on an empty batch: the answer is empty, with as many classes as before.

    model   its parameters give the type
    called  what is called; default: `model`
    given   the type of images where the parameters have no single one; default: unchanged

    Raises:
        ValueError: another answer; incompatible types; a model that writes into its images on some calls only.
    """

    def __init__(self, model: Model, called: Model | None = None, *, given: torch.dtype | None = None) -> None:
        self.model, self._called = model, called or model
        types = _parameter_types(model)
        self._type = types.pop() if len(types) == 1 else given
        self._reads_only = False
        self._shape: tuple[torch.Size, torch.dtype] | None = None

    def __call__(self, x: Images, autocast: Literal["off", "bf16", "caller"] = "off") -> Tensor:
        """`autocast` is that of the model's call; "caller" is the one that is on here."""
        if len(x) == 0:
            return self._of_nothing(x)
        given = (
            x if self._type is None or self._type is x.dtype else x.to(self._type)
        )  # `to` is slow even without effect
        tracked = not given.is_inference()
        lent = x.clone() if given is x and not (self._reads_only and tracked) else given
        before = lent._version if tracked else 0
        answer = self._answer(lent, autocast)
        if tracked and lent._version != before:
            if lent is x:
                raise ValueError(
                    "the model writes into its images on some calls and not on others, so that the images of this call "
                    "are lost: let it compute a new tensor instead, such as x / 255 for x.div_(255)"
                )
            self._reads_only = False
        else:
            self._reads_only = True
        wide = x.dtype if x.dtype.itemsize >= 4 else torch.float32
        if answer.dtype is not wide and answer.is_floating_point():
            answer = answer.to(wide)
        if answer.ndim:  # an answer without a batch is refused by the caller
            self._shape = answer.shape[1:], answer.dtype
        return answer

    def _of_nothing(self, x: Images) -> Tensor:
        """An empty answer, in the graph of `x` where that is one."""
        shape, dtype = self._shape or (torch.Size([2]), x.dtype)
        nothing = torch.zeros(0, *shape, dtype=dtype, device=x.device)
        return nothing + 0 * x.flatten(1)[:, :1] if nothing.is_floating_point() else nothing

    def _answer(self, x: Images, autocast: str) -> Tensor:
        kind = x.device.type
        try:
            if autocast == "caller" or (autocast == "off" and not torch.is_autocast_enabled(kind)):
                answer = self._called(x)
                return answer if type(answer) is Tensor else unwrapped(answer)
            with torch.autocast(kind, torch.bfloat16, enabled=autocast == "bf16"):
                return unwrapped(self._called(x))
        except RuntimeError as error:
            types = _parameter_types(self.model)
            if types in (set(), {x.dtype}) or not _OTHER_TYPE.search(str(error)):
                raise
            raise ValueError(
                f"the model has parameters of {' and '.join(sorted(map(_short, types)))}, and fails on images of "
                f"{_short(x.dtype)}: cast inside the model, such as x.to(self.first.weight.dtype), where the type "
                f"changes ({str(error).splitlines()[0]})"
            ) from error


def answer_of(model: Model, x: Images) -> Tensor:
    """The model's answer, logits or classes, once and in full precision; see `Forward`."""
    return Forward(model)(x)


def logits_of(model: Model, x: Images) -> Logits:
    """Logits in training, under the caller's autocast; see `Forward`.

    Raises:
        ValueError: as `Forward`; no images; the model answers with classes alone.
    """
    if len(x) == 0:
        raise ValueError("a batch to train on needs at least one image")
    logits = Forward(model)(x, "caller")
    if not logits.is_floating_point():
        raise ValueError(f"training needs logits; the model answers with {_short(logits.dtype)}")
    return logits


def unwrapped(answer: Any) -> Tensor:
    """The logits in a model's answer.

    Raises:
        ValueError: there are none.
    """
    if isinstance(answer, Tensor):
        return answer
    logits = answer
    if isinstance(answer, Mapping):
        logits = answer.get("logits", getattr(answer, "logits", answer))
    elif hasattr(answer, "logits"):
        logits = answer.logits
    elif isinstance(answer, tuple | list) and answer:
        logits = answer[0]
    if isinstance(logits, Tensor):
        return logits
    what = f"a {type(answer).__name__}"
    if isinstance(answer, Mapping):
        what += f" with {', '.join(repr(key) for key in list(answer)[:5]) or 'nothing in it'}"
    elif isinstance(answer, tuple | list):
        what += f" of {', '.join(type(each).__name__ for each in answer[:5]) or 'nothing'}"
    raise ValueError(
        f"the model returns {what}. It must return logits: a tensor of shape (batch, classes), an object with .logits, "
        'a mapping with "logits", or a tuple or list that begins with them. Wrap it in a torch.nn.Module whose forward '
        "does `return self.model(x)[...]`"
    )


def reject_class(model: Model) -> int | None:
    """The class that means "rejected", of a model with a reject option: its attribute `reject_class`, the last class.

    Behind a filter or preprocessing, that of the network there.
    """
    found = getattr(model, "reject_class", None)
    behind = getattr(model, "network", None)
    return reject_class(behind) if found is None and isinstance(behind, nn.Module) else found


def classes_of(answer: Tensor, rejected: int | None = None) -> Labels:
    """The predicted classes, from logits or classes; `REJECTED` in place of the class that means that."""
    found = answer.argmax(1) if answer.is_floating_point() else answer.to(torch.int64)
    return found if rejected is None else torch.where(found == rejected, REJECTED, found)


class Verdict(NamedTuple):
    """What a model makes of images: predictions, cross-entropy with a class, and the share of answers that are right.

    Of a random model, which is asked several times, the most frequent class and the mean loss. `right` is the share of
    the first half of the answers, `again` of the others; of a single answer both are 0 or 1. `margin` is the highest
    logit of another class than that of the loss, less that class's own; the mean, too.
    """

    prediction: Labels
    loss: PerImage
    right: PerImage
    again: PerImage
    margin: PerImage

    @staticmethod
    def of(
        answers: Sequence[Tensor],
        y: Labels,
        rejected: int | None = None,
        *,
        label: Labels | None = None,
        harmless: int | None = None,
    ) -> "Verdict":
        """Of one answer, or of an even number of draws; the loss is NaN where the model answers with classes alone.

        y         the class with which the loss is
        rejected  the class that means that
        label     the class that is right (default: y)
        harmless  one more class that is right: after an attack, a rejection is
        """
        classes = torch.stack([classes_of(each, rejected) for each in answers])
        none = torch.full(y.shape, torch.nan, device=y.device)
        losses = [cross_entropy(each, y) if each.is_floating_point() else none for each in answers]
        margins = [margin(each, y) if each.is_floating_point() else none for each in answers]
        hits = classes == (y if label is None else label)
        hits = (hits if harmless is None else hits | (classes == harmless)).to(torch.float64)
        half = max(len(hits) // 2, 1)
        loss, gap = torch.stack(losses).mean(0), torch.stack(margins).mean(0)
        return Verdict(classes.mode(0).values, loss, hits[:half].mean(0), hits[-half:].mean(0), gap)

    @staticmethod
    def together(parts: "Sequence[Verdict]") -> "Verdict":
        return Verdict(*map(torch.cat, zip(*parts, strict=True)))


def lent(x: Images, model: Model | None = None) -> Images:
    """A copy in the type of a model's parameters, for layers that may write into their images."""
    types = set() if model is None else _parameter_types(model)
    return x.to(types.pop(), copy=True) if len(types) == 1 else x.clone()


def _parameter_types(model: Model) -> set[torch.dtype]:
    if not isinstance(model, nn.Module):
        return set()
    return {each.dtype for each in model.parameters() if each.is_floating_point()}


def _short(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def check_answer(answer: Tensor, batch: int, highest_label: int) -> None:
    """Raises ValueError unless the answer is logits, see `check_logits`, or one class per image."""
    if answer.is_floating_point():
        check_logits(answer, batch, highest_label)
    elif answer.shape != (batch,):
        raise ValueError(
            f"the model must return logits, or one class per image; got {answer.dtype} {tuple(answer.shape)}"
        )


def check_rejection(answer: Tensor, rejected: int, highest_label: int) -> None:
    """Raises ValueError unless the class that means "rejected" is the model's last, and no label's."""
    last = answer.shape[1] - 1 if answer.is_floating_point() else rejected
    if rejected != last or highest_label >= rejected:
        raise ValueError(
            f"reject_class is {rejected}: it must be the last of the model's {last + 1} classes, above all labels (the "
            f"highest is {highest_label})"
        )


def are_probabilities(answer: Tensor, within: float = 1e-4) -> bool:
    """Whether all rows are at least 0 and sum to 1, within so much."""
    return bool(len(answer) and (answer >= 0).all() and ((answer.sum(1) - 1).abs() < within).all())


def check_logits(logits: Tensor, batch: int, highest_label: int) -> None:
    """Raises ValueError unless logits are finite, of shape (batch, classes) with all labels, and no probabilities."""
    if logits.ndim != 2 or len(logits) != batch:
        raise ValueError(f"the model must return logits of shape ({batch}, classes); got {tuple(logits.shape)}")
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError("the model returns one number per image; an attack needs logits of at least two classes")
    if highest_label >= classes:
        raise ValueError(
            f"label {highest_label} has no class: the model returns {classes} logits, for 0 to {classes - 1}"
        )
    with torch.no_grad():
        if not bool(logits.isfinite().all()):
            raise ValueError("the model returns NaN or infinite logits on these images")
        if are_probabilities(logits):
            raise ValueError(
                "the model returns probabilities (rows are at least 0 and sum to 1). Attacks need logits: remove the "
                "softmax, or return its input"
            )

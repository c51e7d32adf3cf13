"""What a model takes as its input (`Form`), and the layer that makes that of images in [0, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, final

import torch.nn.functional as F
from torch import Tensor

from steelman import config
from steelman.data.dataset import Dataset
from steelman.networks.preprocess import Normalise, Preprocess

UNIT = (0.0, 1.0)


@dataclass(frozen=True)
class Form:
    """The input of a model, as far as its file, its library or the user says.

    size      (height, width); default: any
    channels  default: as many as the images have
    resized   what is made of images of another size before they are cropped at the centre to `size`: (height, width),
              or the length of the shorter side; default: `size` itself, without a crop
    odd       of an odd number of rows or columns to cut off, half comes first: rounded to "even" (default; torchvision
              and timm) or "down" (transformers)
    resample  "bilinear" (default) or "bicubic", with antialiasing, as Pillow does
    range     the numbers of black and white; default (0, 1)
    whole     whether these are rounded to whole numbers, for models that take bytes
    order     "RGB" (default) or "BGR"
    layout    "NCHW" (default) or "NHWC"
    mean, std per channel, in the units of `range` and the order of `order`; default: none
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    resized: tuple[int, int] | int | None = None
    odd: Literal["even", "down"] = "even"
    resample: str = "bilinear"
    range: tuple[float, float] = UNIT
    whole: bool = False
    order: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.resample not in ("bilinear", "bicubic"):
            raise ValueError(
                f"the model's images are resized by {self.resample!r}, which is not offered here (bilinear and bicubic "
                "are): load the model by 'module:function', and give images of its size"
            )

    def changed(
        self,
        layout: str | None = None,
        range: tuple[float, float] | None = None,
        order: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
    ) -> "Form":
        """With what the user says, where they say something; a mean also sets the standard deviation and both ways."""
        given = {"layout": layout, "range": range, "order": order}
        if mean is not None or std is not None:
            given |= {"mean": None if mean is None else tuple(mean), "std": None if std is None else tuple(std)}
        if size is not None:
            given |= {"size": size, "resized": None if size != self.size else self.resized}
        unset = ("mean", "std", "resized")
        named = {name: value for name, value in given.items() if value is not None or name in unset}
        return replace(self, **named)  # pyright: ignore[reportArgumentType]

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from the defaults, as plain data: a recipe's `preprocess = { kind = "InputForm", ... }`."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        changed = {name: value for name, value in own.items() if value != getattr(Form(), name)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


@final
class InputForm(Preprocess):
    """Images (batch, channels, height, width) in [0, 1] to the input that a model takes. Differentiable.

    In this order: resized and cropped; grey repeated to as many channels as the model has; order of channels; range;
    normalised; layout. Images that have the model's size are neither resized nor cropped.

    form   of the input
    shape  of one image
    said   what the layer does, in words

    Raises:
        ValueError: colour images for a model of one channel, or another number of channels; mean and std that do not
            fit; BGR without three channels.
    """

    def __init__(self, form: Form, shape: Sequence[int]) -> None:
        super().__init__()
        self.form, self.fitted = form, True
        channels, *sides = shape
        self.channels = form.channels or channels
        if self.channels != channels and channels != 1:
            remedy = " (ImageFolder and its kind read grey = true)" if self.channels == 1 else ""
            raise ValueError(f"the model takes images of {self.channels} channels, and these have {channels}{remedy}")
        if form.order == "BGR" and self.channels != 3:
            raise ValueError(f"--order BGR is for three channels; the model takes {self.channels}")
        self.resized = form.size is not None and tuple(sides) != form.size
        before = (self.channels, *sides)
        self.normalise = (
            None if form.mean is None and form.std is None else Normalise(shape=before, mean=form.mean, std=form.std)
        )
        self.said = self._words(channels, (sides[0], sides[1]))

    def _words(self, channels: int, sides: tuple[int, int]) -> list[str]:
        form, words = self.form, []
        if self.resized:
            assert form.size is not None
            first, last = _first(form, sides), form.size
            crop = "" if first == last else f" and cropped to {_by(last)}"
            words.append(f"resized from {_by(sides)} to {_by(first)} ({form.resample}){crop}")
        if self.channels != channels:
            words.append(f"grey repeated to {self.channels} channels")
        if form.order == "BGR":
            words.append("channels in the order BGR")
        if form.range != UNIT or form.whole:
            words.append(f"in the range {form.range[0]:g}..{form.range[1]:g}{', rounded' if form.whole else ''}")
        if form.mean is not None or form.std is not None:
            words.append(f"normalised by mean {listed(form.mean)}, std {listed(form.std)}")
        if form.layout == "NHWC":
            words.append("channels last")
        return words

    def fit(self, dataset: Dataset) -> "InputForm":
        return self

    def transform(self, x: Tensor) -> Tensor:
        form = self.form
        if self.resized and form.size is not None and tuple(x.shape[-2:]) != form.size:
            x = _cropped(_scaled(x, _first(form, (x.shape[-2], x.shape[-1])), form.resample), form.size, form.odd)
        if x.shape[1] != self.channels:
            x = x.repeat(1, self.channels, 1, 1)
        x = x.flip(1) if form.order == "BGR" else x
        low, high = form.range
        x = x if form.range == UNIT else low + (high - low) * x
        x = x.round() if form.whole else x
        x = x if self.normalise is None else self.normalise(x)
        return x.permute(0, 2, 3, 1).contiguous() if form.layout == "NHWC" else x

    def extra_repr(self) -> str:
        return ", ".join(self.said)


def input_form(*, shape: Sequence[int], **settings: Any) -> InputForm:
    """An `InputForm` from the settings of its `Form`, as a recipe has them."""
    return InputForm(config.read(Form, settings), shape)


def _first(form: Form, sides: tuple[int, int]) -> tuple[int, int]:
    """The size to which images are scaled. Of a given shorter side, the other is rounded down, as in torchvision."""
    assert form.size is not None
    if form.resized is None:
        return form.size
    if isinstance(form.resized, tuple):
        return form.resized
    height, width = sides
    short = min(sides)
    return int(form.resized * height / short), int(form.resized * width / short)


def _scaled(x: Tensor, size: tuple[int, int], resample: str) -> Tensor:
    return F.interpolate(x, size, mode=resample, align_corners=False, antialias=True).clamp(0, 1)


def _cropped(x: Tensor, size: tuple[int, int], odd: str) -> Tensor:
    """The centre; zeros around images that are smaller, as torchvision does."""
    height, width = size
    more = [max(wanted - there, 0) for wanted, there in zip(size, x.shape[-2:], strict=True)]
    x = F.pad(x, (more[1] // 2, (more[1] + 1) // 2, more[0] // 2, (more[0] + 1) // 2)) if any(more) else x
    half = round if odd == "even" else int
    top, left = half((x.shape[-2] - height) / 2), half((x.shape[-1] - width) / 2)
    return x[..., top : top + height, left : left + width]


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def listed(numbers: Sequence[float] | None) -> str:
    return " ".join(f"{number:.4g}" for number in numbers or ())

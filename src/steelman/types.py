"""The types of images (floats in [0, 1], NCHW), labels (int64), logits, radii, models and batches."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, TypeAlias, TypeVar

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Images: TypeAlias = Float[Tensor, "batch *image"]
Labels: TypeAlias = Int64[Tensor, " batch"]
Logits: TypeAlias = Float[Tensor, "batch classes"]
PerImage: TypeAlias = Float[Tensor, " batch"]
Flags: TypeAlias = Bool[Tensor, " batch"]
Seeds: TypeAlias = Int64[Tensor, " batch"]
Indices: TypeAlias = Int64[Tensor, " some"]

Radius: TypeAlias = Annotated[float | Tensor, Ge(0)]
"""A length in the units of the images: one for all, or one per image, of shape (batch,)."""

Box: TypeAlias = tuple[float, float]


class Share(float):
    """A default length, as a share of the width of the box: `PGD().eps` is 8/255, and `PGD(box=(0, 255)).eps` is 8.

    Its value is for the box of the attack that has it; in an attack with another box it gets another one.
    """

    share: float

    def __new__(cls, share: float, width: float = 1.0) -> "Share":
        length = super().__new__(cls, share * width)
        length.share = share
        return length

    def of(self, width: float) -> "Share":
        return Share(self.share, width)

    def __reduce__(self) -> tuple[type, tuple[float, float]]:
        return Share, (self.share, self / self.share if self.share else 1.0)


Model: TypeAlias = Callable[[Tensor], Any]
"""Maps images to logits (`steelman.forward` says how); an `nn.Module` keeps its mode and parameters."""

Randomness: TypeAlias = torch.Generator | Tensor | None
"""The source of random numbers: a generator, one int64 seed per image, or None for torch's global generator."""


def check_tensor(name: str, value: object) -> None:
    """Raises ValueError for a list, an array or anything else that is no tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} must be a torch.Tensor; got a {type(value).__name__}. Use {name} = torch.as_tensor({name})"
        )


CLASSIFIER = "classifier"
"""The name, in games and checkpoints, of the network that is trained to classify."""


R = TypeVar("R", bound="Rows")


class Rows:
    """A dataclass whose tensors have a row per image; `rows[which]` keeps some images."""

    def __getitem__(self: R, which: slice | Tensor) -> R:
        changed = {item.name: _some(getattr(self, item.name), which) for item in fields(self)}  # pyright: ignore
        return replace(self, **changed)  # pyright: ignore


def _some(value: Any, which: slice | Tensor) -> Any:
    if isinstance(value, Tensor | Rows):
        return value[which]
    if isinstance(value, tuple) and any(isinstance(each, Tensor | Rows) for each in value):
        return tuple(_some(each, which) for each in value)
    return value


def in_blocks(work: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`work` on a few rows of `tensors` at a time, on a CPU: fresh large tensors cost it more than the arithmetic."""
    blocks = list(blocks_of(*tensors))
    return work(*tensors) if len(blocks) == 1 else torch.cat([work(*parts) for parts in blocks])


def blocks_of(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """`tensors`, a few rows at a time on a CPU, whole on a GPU; what is written into a block is written into them."""
    rows = max(1, 2**16 // max(1, tensors[0].shape[1:].numel()))
    if tensors[0].is_cuda or len(tensors[0]) <= rows:
        return (tensors,)
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


@dataclass(frozen=True)
class Description:
    """How to build a network again without its data: [network] of its recipe, shape of an image, number of classes."""

    network: dict[str, Any]
    shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Batch(Rows):
    """Images and labels that are trained on together.

    index     each image's place in its data set
    seeds     one int64 per image from which all of its noise is drawn, so that an image's noise does not depend on how
              the batch is divided
    soft      probabilities of the classes, (batch, classes), where the data have them beside the labels
    crafted   attacked versions of each image that were made before training, (batch, versions, *image)
    progress  the share of the training that is done, 0 to 1, for settings that change with it
    common    a number that all processes share for this batch, the seed of noise that belongs to no image

    All but `x` and `y` are optional.
    """

    x: Tensor
    y: Tensor
    index: Tensor | None = None
    seeds: Tensor | None = None
    soft: Tensor | None = None
    progress: float = 1.0
    common: int = 0
    crafted: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensor("x", self.x)
        check_tensor("y", self.y)

    def __len__(self) -> int:
        return len(self.x)

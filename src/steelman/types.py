"""The shapes that everything else speaks of: images are floats in [0, 1], NCHW; labels int64; models return logits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias

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
"""What maps images to logits (`steelman.forward` says how); of an `nn.Module`, mode and parameters are kept too."""

Randomness: TypeAlias = torch.Generator | Tensor | None
"""Where chance comes from: a generator, one int64 seed per image, or None for torch's global generator."""


def check_tensor(name: str, value: object) -> None:
    """Raises ValueError for a list, an array or anything else that is no tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} must be a torch.Tensor; got a {type(value).__name__}. Use {name} = torch.as_tensor({name})"
        )


CLASSIFIER = "classifier"
"""What a game and a checkpoint call the network that is trained to classify, beside others."""


@dataclass(frozen=True)
class Description:
    """What it takes to build a network again without its data.

    network  what [network] of a recipe says
    shape    of an image
    classes  how many
    """

    network: dict[str, Any]
    shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Batch:
    """Images and labels that are trained on together.

    index     each image's place in its data set
    seeds     one int64 per image from which all of its noise is drawn, so that the same image meets the same noise
              however the batch is cut up
    soft      probabilities of the classes, (batch, classes), where the data have them beside the labels
    progress  how much of the training is done, 0 to 1, for what changes with it
    common    a number that all processes share for this batch; chance that belongs to no image is drawn from it

    All but `x` and `y` may be left out.
    """

    x: Tensor
    y: Tensor
    index: Tensor | None = None
    seeds: Tensor | None = None
    soft: Tensor | None = None
    progress: float = 1.0
    common: int = 0

    def __post_init__(self) -> None:
        check_tensor("x", self.x)
        check_tensor("y", self.y)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: slice | Tensor) -> "Batch":
        return replace(
            self,
            x=self.x[which],
            y=self.y[which],
            index=None if self.index is None else self.index[which],
            seeds=None if self.seeds is None else self.seeds[which],
            soft=None if self.soft is None else self.soft[which],
        )

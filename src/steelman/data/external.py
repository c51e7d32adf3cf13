"""Data sets from a user's own function."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from steelman.data.dataset import Dataset, Source, Split, check_split
from steelman.data.pictures import pixels
from steelman.data.stream import LABELS, Items, Streamed, pair
from steelman.ranges import Natural
from steelman.trust import imported, is_reading


@final
@dataclass(frozen=True)
class External(Source):
    """Any map-style `torch.utils.data.Dataset` that `function(split)` returns, with split "train" or "test".

    function  'module:function', found on the Python path or, after that, in the working directory. A recipe's is
              imported only if it is trusted (`steelman.trust`)
    classes   names of the classes; default: the data set's own `classes`, or those of its `features`
    workers   processes that read, default 0: the one that trains

    Its items are (image, label), or mappings with both under usual names ("image", "img", "pixel_values"; "label",
    "labels"), as of Hugging Face's `datasets`: images of one shape, uint8 or floating point in [0, 1], (channels,
    height, width), or pictures. They are streamed. Randomness inside the data set is not resumed bit for bit: use
    Steelman's augmentations where that matters. A function may also return a `steelman.data.Dataset`.
    """

    function: str
    classes: tuple[str, ...] = ()
    workers: Natural = 0

    def __post_init__(self) -> None:
        # A name in a program was written by the user; one in a recipe has to be trusted when it is loaded.
        object.__setattr__(self, "_from_file", is_reading())

    def load(self, split: Split, folder: Path | None = None) -> Dataset:
        check_split(split)
        function = imported(self.function, from_file=getattr(self, "_from_file", True))
        if not callable(function):
            raise ValueError(f"{self.function!r} is a {type(function).__name__}, not a function of the split")
        items = function(split)
        if isinstance(items, Dataset):
            return items
        if not isinstance(items, Items) or len(items) == 0:
            raise ValueError(
                f"{self.function}({split!r}) must return a map-style data set with __len__ and __getitem__ that is not "
                f"empty; got {type(items).__name__}"
            )
        classes = self.classes or tuple(map(str, getattr(items, "classes", ()))) or _named(items)
        if not classes:
            raise ValueError(f"{self.function}({split!r}) has no `classes`: name them in [data] classes = [...]")
        return Streamed(self.function, items, tuple(pixels(pair(items[0])[0]).shape), classes, workers=self.workers)


def _named(items: object) -> tuple[str, ...]:
    """The classes of a data set of Hugging Face's: names of its label's feature."""
    features = getattr(items, "features", None) or {}
    return next((tuple(features[name].names) for name in LABELS if hasattr(features.get(name), "names")), ())

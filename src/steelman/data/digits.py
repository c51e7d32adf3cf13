"""The embedded data set: no file, no download."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from steelman.data.dataset import Source, Split, check_split
from steelman.data.memory import InMemory
from steelman.data.sample import spread
from steelman.extras import require


@final
@dataclass(frozen=True)
class Digits(Source):
    """scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels in 17 grey levels, 0/16 .. 16/16.

    The source has no split. Ours is a fixed rule: of the images sorted by label (a stable sort), 500 at even distances
    are the test set and 1,297 the training set, stratified by class. Both have digits of the same writers, so
    accuracies are higher than on digits of new writers.

    Reference: Alpaydin and Kaynak, "Cascading classifiers", Kybernetika 1998; UCI "Optical recognition of handwritten
    digits", test part.
    """

    def load(self, split: Split, folder: Path | None = None) -> InMemory:
        require("Digits", "sklearn")
        from sklearn.datasets import load_digits

        check_split(split)
        digits: Any = load_digits()
        images = torch.from_numpy(digits.images).to(torch.uint8)[:, None]
        labels = torch.from_numpy(digits.target).to(torch.int64)
        train, test = spread(labels.argsort(stable=True), 500)
        classes = tuple(str(digit) for digit in range(10))
        return InMemory("Digits", images, labels, classes, levels=16).subset(train if split == "train" else test)

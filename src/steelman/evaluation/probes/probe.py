"""The base class of probes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from steelman.attacks.core import Access
from steelman.data.dataset import Dataset
from steelman.naming import call
from steelman.ranges import Checked
from steelman.types import Images, Labels, Model, PerImage


@dataclass(frozen=True)
class Probe(Checked, ABC):
    """A number per image that is measured beside the attacks: a column of the table, named by the call that makes it.

    One that is `of_clean` images is measured once for each image, in the rows of "clean"; another for each image and
    attack, on the image that the attack returned. Where it is not measured, the column holds NaN.
    """

    access: ClassVar[Access] = "decisions"
    """What it needs of a model."""
    of_clean: ClassVar[bool] = False

    def setup(self, training_images: Callable[[], Dataset]) -> "Probe":
        """The probe as it is run; one that needs the training set, or a library, overrides this."""
        return self

    @abstractmethod
    def __call__(self, model: Model, x: Images, y: Labels, x_adv: Images, seeds: Labels) -> PerImage:
        """One number per image: of `x` (where it is `of_clean`; then `x_adv` is `x`), or of `x_adv`.

        `model` is in evaluation mode with its parameters frozen. `seeds` is one int64 per image, for what is random.
        """

    def __str__(self) -> str:
        return call(self)

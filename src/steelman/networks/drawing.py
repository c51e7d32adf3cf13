"""A model that draws random numbers and does not say so."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor, nn

from steelman.forward import answer_of, reject_class


@final
class Drawn(nn.Module):
    """A model whose answers are random: it is judged over draws, and batteries attack its mean (`is_random`).

    Numpy's and Python's global generators are seeded from torch's at each call, and restored after it: so all draws
    follow torch's seed, as evaluations expect. A generator that the model keeps for itself is not reached: then the
    same seed need not give the same numbers.

    model  any module that draws anew at each call in evaluation mode
    """

    random: ClassVar[bool] = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def reject_class(self) -> int | None:
        return reject_class(self.model)

    def forward(self, x: Tensor) -> Tensor:
        with _by_torch():
            return answer_of(self.model, x)


@contextmanager
def _by_torch() -> Iterator[None]:
    """Numpy's and Python's global generators follow torch's inside."""
    seed = int(torch.randint(2**31, ()))
    pythons, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002  # what models draw from
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(pythons)
        np.random.set_state(numpys)  # noqa: NPY002

"""The checks of types and shapes that conftest.py installs notice what is wrong."""

import pytest
import torch

import typechecks
from steelman.losses import other_logits
from steelman.types import Labels, Logits, PerImage


def test_an_argument_of_another_type_or_shape_is_an_error() -> None:
    logits, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    other_logits(logits, labels)
    for wrong in (labels.float(), labels[:, None], labels[:1], [0, 0]):
        with pytest.raises(TypeError, match="labels"):
            other_logits(logits, wrong)  # type: ignore


def test_a_result_of_another_shape_is_an_error() -> None:
    @typechecks.checked
    def first(logits: Logits, labels: Labels, count: int) -> PerImage:
        return logits[:count, 0].gather(0, labels[:count])

    first(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 2)
    with pytest.raises(TypeError, match="return"):
        first(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 1)

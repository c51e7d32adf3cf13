"""Steps within ball and box: on every scale of gradients, and without a write into what belongs to a caller."""

from typing import Any

import pytest
import torch
from torch import Tensor

from steelman.attacks import MIM, PGD
from steelman.attacks.core import Ball
from steelman.norms import L0, L1, L2, Linf, Norm

each = pytest.mark.parametrize("norm", [Linf, L2, L1, L0], ids=repr)
BOXES = pytest.mark.parametrize("box", [(0.0, 1.0), None], ids=["box", "no box"])


def made(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images of which half the entries are at the ends of the box."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(6, 3, 5, 5, generator=generator, dtype=dtype) - 0.5).clamp(0, 1)


def slopes(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@each
@BOXES
def test_steps_write_into_nothing_and_return_a_tensor_of_their_own(norm: Norm, box: tuple[float, float] | None) -> None:
    eps = 3.0 if norm is L0 else 0.5
    ball, gradient = Ball.around(made(0), eps, norm, box), slopes(1)
    x = ball.nearest(made(0) + 0.02 * slopes(2))
    step = torch.full((6, 1, 1, 1), 0.2)
    given = (ball.x, x, gradient, step)
    before = [each.clone() for each in given]
    for found in (ball.climb(x, gradient, step), ball.climb(ball.x, gradient, step)):
        assert found.data_ptr() not in {each.data_ptr() for each in given}  # APGD writes into it
        assert not torch.equal(found, x)
    ball.nearest(x + gradient)
    ball.furthest(gradient)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))


@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1e-12, 1.0, 1e12, 1e25])
@BOXES
def test_a_step_of_l2_is_as_long_for_gradients_of_any_scale(scale: float, box: tuple[float, float] | None) -> None:
    """In float32 squares underflow below 1e-23 and overflow above 1e19."""
    x, gradient = made(0), slopes(1)
    step = torch.full((6, 1, 1, 1), 0.2)
    wide = Ball.around(x.double(), 9.0, L2, box).climb(x.double(), gradient.double(), step.double())
    found = Ball.around(x, 9.0, L2, box).climb(x, gradient * scale, step)
    torch.testing.assert_close(found.double(), wide, rtol=0, atol=1e-6)
    nothing = Ball.around(x, 9.0, L2, box).climb(x, gradient * 0, step)
    assert torch.equal(nothing, x)


class Stored(torch.autograd.Function):
    """Hands out as its gradient a tensor that it keeps."""

    slope: Tensor

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.stack([-x.flatten(1).sum(1), x.flatten(1).sum(1)], 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return Stored.slope


@pytest.mark.parametrize("norm", [Linf, L2], ids=repr)
def test_gradients_that_a_model_keeps_stay_what_they_are(norm: Norm) -> None:
    Stored.slope = slopes(1)
    x, y = made(0), torch.zeros(6, dtype=torch.int64)
    for attack in (MIM(0.5, 3, norm=norm, decay=0.5), PGD(0.5, 3, norm=norm, random_start=False)):
        moved = attack(Stored.apply, x, y)
        assert not torch.equal(moved, x)
        assert torch.equal(Stored.slope, slopes(1))


@pytest.mark.parametrize("norm", [Linf, L2], ids=repr)
def test_images_that_a_model_keeps_stay_what_they_were(norm: Norm) -> None:
    kept = []

    def model(x: Tensor) -> Tensor:
        kept.append((x, x.detach().clone()))
        total = (x.flatten(1) - 0.3).square().sum(1)
        return torch.stack([-total, total], 1)

    MIM(0.5, 4, norm=norm)(model, made(0), torch.zeros(6, dtype=torch.int64))
    assert len(kept) >= 4
    assert all(torch.equal(image, copy) for image, copy in kept)

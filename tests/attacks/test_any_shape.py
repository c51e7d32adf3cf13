"""Saliency and noise attacks on images of any shape, by random example: box, norm and success are as promised."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

from steelman.attacks import JSMA, GaussianNoise, SaltAndPepper, UniformNoise
from steelman.norms import L0, L1, L2, Linf

SHAPES = some.one_of(
    some.tuples(some.integers(1, 3), some.integers(1, 7), some.integers(1, 7)), some.tuples(some.integers(1, 40))
)
Tested = JSMA | GaussianNoise | UniformNoise | SaltAndPepper
ATTACKS: list[Tested] = [
    JSMA(),
    JSMA(gamma=0.4, both=True, theta=0.3),
    JSMA(of="softmax", pair=False, theta=-1.0),
    GaussianNoise(eps=0.7, samples=2),
    GaussianNoise(eps=0.7, rescale=True),
    *(UniformNoise(eps=eps, norm=norm, samples=2) for norm, eps in ((Linf, 0.1), (L2, 0.7), (L1, 1.5), (L0, 2.0))),
    SaltAndPepper(samples=3, share_max=0.6, whole_pixels=True),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
@settings(max_examples=12, deadline=None)
@given(shape=SHAPES, batch=some.integers(1, 4), seed=some.integers(0, 10**6), edge=some.booleans())
def test_box_norm_and_success_are_as_promised(
    attack: Tested,
    shape: tuple[int, ...],
    batch: int,
    seed: int,
    edge: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, *shape, generator=generator)
    x = x.round() if edge else x
    weight = torch.randn(x[0].numel(), 3, generator=generator)

    def model(z: Tensor) -> Tensor:
        return 3 * (z.flatten(1) - 0.5) @ weight

    y = model(x).argmax(1)
    result = attack.run(model, x, y, generator=generator)
    assert result.x_adv.shape == x.shape
    assert bool(((result.x_adv >= 0) & (result.x_adv <= 1)).all())
    assert torch.equal(result.success, model(result.x_adv).argmax(1) != y)
    size = attack.norm.size(result.x_adv.double() - x.double())
    if isinstance(attack, GaussianNoise | UniformNoise):
        assert (size <= attack.eps).all()
    if isinstance(attack, JSMA):
        assert (size <= max(attack.gamma * x[0].numel(), 1)).all()
        assert (size[result.success] >= 1).all()
    if isinstance(attack, SaltAndPepper):
        assert (size <= 0.6 * x[0].numel() + 1e-6).all()
        assert (size[~result.success] == 0).all()

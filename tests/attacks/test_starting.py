"""Where hard-label attacks start, and their way back to the boundary."""

import pytest
import torch
from torch import Tensor

from affine import affine, images
from steelman.attacks.core.oracle import Oracle
from steelman.attacks.decision.starting import Side, Starts, _noise, to_boundary, towards
from steelman.losses import Goal
from steelman.norms import L2, Linf, Norm
from steelman.randomness import Draws

DRAWS = Draws(torch.arange(100, 112))


def never(x: Tensor) -> Tensor:
    """Class 0 whatever it is shown."""
    return torch.tensor([1.0, 0.0, -1.0], dtype=x.dtype).expand(len(x), 3) + 0 * x.flatten(1)[:, :3]


@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
def test_the_way_back_ends_just_behind_the_boundary(norm: Norm) -> None:
    model = affine(0, images=12)
    goal = Goal(model.y)
    side = Side(Oracle(model, goal), goal, torch.arange(12), model.x.shape[1:])
    clean = model.x.flatten(1)
    far = images(12).flatten(1)
    wrong = model(far).argmax(1) != model.y
    assert int(wrong.sum()) >= 6
    clean, far, side = clean[wrong], far[wrong], side[torch.where(wrong)[0]]
    found = to_boundary(side, clean, far, norm, 2.0**-12)
    assert bool(side(found).all())
    reach = norm.size(far - clean)
    nearer = norm.size(found - clean) / reach - 2.0**-12
    assert not bool(side(towards(clean, far, nearer, norm)).any())
    if norm is L2:
        torch.testing.assert_close(
            (found - clean) / (far - clean), (norm.size(found - clean) / reach)[:, None] + 0 * far
        )
    else:
        bound = norm.size(found - clean)[:, None]
        torch.testing.assert_close(found - clean, (far - clean).clamp(-bound, bound))


def test_a_precision_beyond_that_of_floats_costs_no_more_than_theirs() -> None:
    model = affine(0, images=12)
    x, goal = model.x.float(), Goal((model.y + 1) % 10)
    oracle = Oracle(model, goal)
    to_boundary(Side(oracle, goal, torch.arange(12), x.shape[1:]), images(12).float().flatten(1), x.flatten(1), L2, 0.0)
    assert oracle.forwards.tolist() == [23] * 12


@pytest.mark.parametrize("norm", [L2, Linf], ids=repr)
def test_the_start_is_the_nearest_of_several(norm: Norm) -> None:
    model = affine(1, images=12)
    goal = Goal(model.y)
    sizes = []
    for count in (1, 4, 16):
        oracle = Oracle(model, goal)
        side, clean, start = Starts(norm, (0.0, 1.0), count, 1000).find(oracle, model.x, goal, DRAWS)
        assert side.which.tolist() == list(range(12))
        assert bool(side(start).all())
        assert torch.equal(clean, model.x.flatten(1))
        assert bool((start >= 0).all() & (start <= 1).all())
        assert int(oracle.forwards.max()) <= 1 + 10 * count + 4 * count + 1
        sizes.append(norm.size(start - clean))
    assert bool((sizes[1] <= sizes[0]).all() & (sizes[2] <= sizes[1]).all() & (sizes[2] < sizes[0]).any())


def test_images_that_are_wrong_or_have_no_start_are_left_out() -> None:
    x, goal = images(4), Goal(torch.tensor([0, 1, 0, 2]))
    oracle = Oracle(never, goal)
    side, clean, start = Starts(L2, (0.0, 1.0), 5, 30).find(oracle, x, goal, DRAWS[torch.arange(4)])
    assert len(side.which) == len(clean) == len(start) == 0
    assert oracle.forwards.tolist() == [31, 1, 31, 1]


def test_after_ten_tries_per_start_one_is_enough() -> None:
    def rare(x: Tensor) -> Tensor:
        """Class 1 where the first pixel is nearly white: one try in 50 or so, and the white one."""
        hot = (x.flatten(1)[:, 0] > 0.98).to(x.dtype)
        return torch.stack([0.5 - hot, hot - 0.5], 1)

    x = images(4, torch.float32) * 0.9
    goal = Goal(torch.zeros(4, dtype=torch.int64))
    oracle = Oracle(rare, goal)
    side, _, start = Starts(L2, (0.0, 1.0), 10, 1000).find(oracle, x, goal, DRAWS[torch.arange(4)])
    assert len(start) == 4
    assert bool(side(start).all())
    assert int(oracle.forwards.max()) <= 102 + 40


def test_without_a_box_starts_may_lie_beyond_the_images_range() -> None:
    def bright(x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1) - 1.5  # white is 1, so within the images' range nothing is class 1
        return torch.stack([-mean, mean], 1)

    x, goal = images(3), Goal(torch.zeros(3, dtype=torch.int64))
    for box, found in (((0.0, 1.0), 0), (None, 3)):
        side, _, _ = Starts(L2, box, 1, 20).find(Oracle(bright, goal), x, goal, DRAWS[torch.arange(3)])
        assert len(side.which) == found


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 4, 6), (7,), (2, 5)])
def test_noise_has_grains_that_fit(shape: tuple[int, ...]) -> None:
    for turn in range(16):
        noise = _noise(turn, DRAWS.split(turn), torch.Size(shape), torch.float64).reshape(12, *shape)
        assert bool((noise >= 0).all() & (noise <= 1).all())
        assert len({float(image.sum()) for image in noise}) == 12 or turn % 8 >= 4
        assert (len(noise.unique()) == 2) == (turn % 8 >= 4)
        grain = 2 ** (turn % 4) if shape[-1] == 28 else 1
        if grain > 1:
            assert torch.equal(noise[..., 0, :grain], noise[..., 0, :1].expand(12, 3, grain))
            assert torch.equal(noise[..., :grain, 0], noise[..., :1, 0].expand(12, 3, grain))
        assert not torch.equal(noise[..., grain - 1], noise[..., grain])

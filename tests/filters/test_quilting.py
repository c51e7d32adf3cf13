"""Quilting: its patches, its cuts, and what it refuses."""

from itertools import pairwise, product

import pytest
import torch

from steelman import PGD, checkpoint
from steelman.data import Digits
from steelman.filters import BPDA, Quilting
from steelman.filters.quilting import _beyond
from steelman.networks import MLP, Filtered
from steelman.networks.building import network_of
from steelman.norms import L2

TRAIN = Digits().load("train")


def of_own_patches(x: torch.Tensor, **settings) -> Quilting:
    """Fitted by hand on all patches of the images."""
    patches = x.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    filter = Quilting(3, 1, patches=len(patches), shape=x.shape[1:], **settings)
    filter.get_buffer("patches").copy_(patches)
    filter.fitted = True
    return filter


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("side", [7, 8])
def test_an_image_of_patches_that_are_there_stays(side: int, cut: bool):
    torch.manual_seed(0)
    x = torch.rand(3, 2, side, side)
    assert torch.equal(of_own_patches(x, neighbours=1, cut=cut)(x), x)


def test_everything_comes_from_the_patches_and_the_neighbours_are_drawn_alike():
    data = TRAIN
    filter = Quilting(8, 0, neighbours=3, patches=40, shape=(1, 8, 8)).fit(data)
    (batch,) = data.batches([torch.arange(1)])
    x = batch.x.expand(900, -1, -1, -1)
    torch.manual_seed(0)
    found = filter(x).flatten(1)
    patches = filter.get_buffer("patches").flatten(1)
    near = (patches - x[0].flatten()).norm(dim=1).argsort()[:3]
    which = torch.cdist(found, patches).argmin(1)
    assert torch.equal(found, patches[which])
    counts = torch.bincount(which, minlength=40)[near]
    assert int(counts.sum()) == 900
    assert all(240 < int(each) < 360 for each in counts)


def test_patches_are_parts_of_training_images():
    filter = Quilting(3, 1, patches=50, shape=(1, 8, 8)).fit(TRAIN)
    whole = next(TRAIN.in_order(len(TRAIN))).x.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).flatten(0, 3)
    for patch in filter.get_buffer("patches").flatten(1):
        assert bool((whole == patch).all(1).any())
    again, other = (Quilting(3, 1, patches=50, shape=(1, 8, 8)).fit(TRAIN, seed) for seed in (0, 1))
    assert torch.equal(filter.get_buffer("patches"), again.get_buffer("patches"))
    assert not torch.equal(filter.get_buffer("patches"), other.get_buffer("patches"))


def test_the_cut_is_the_path_of_least_sum():
    """Against all paths."""
    torch.manual_seed(0)
    apart = torch.rand(20, 5, 3)
    seen = _beyond(apart)
    for costs, beyond in zip(apart, seen, strict=True):
        paths = [
            path for path in product(range(3), repeat=5) if all(abs(one - two) <= 1 for one, two in pairwise(path))
        ]
        best = min(paths, key=lambda path: sum(float(costs[row, at]) for row, at in enumerate(path)))
        assert beyond.tolist() == [[column >= at for column in range(3)] for at in best]


def test_at_a_corner_a_patch_is_seen_beyond_both_cuts():
    torch.manual_seed(0)
    new, old = torch.rand(2, 40, 2, 5, 5)
    apart = (new - old).square().sum(1)
    expected = torch.ones(40, 5, 5, dtype=torch.bool)
    expected[:, :, :2] = _beyond(apart[:, :, :2])
    expected[:, :2] &= _beyond(apart.mT[:, :, :2]).mT
    assert torch.equal(Quilting(5, 2)._new(new, old, 2, 2)[:, 0], expected)


def test_the_stand_in_is_the_mean_of_near_patches_by_its_formula_and_has_its_gradient():
    """Of six patches, all of which it mixes, so that it is smooth everywhere."""
    torch.manual_seed(0)
    filter = Quilting(3, 1, 2, patches=6, shape=(2, 5, 5)).double()
    filter.get_buffer("patches").uniform_()
    filter.fitted = True
    x = torch.rand(2, 2, 5, 5, dtype=torch.float64)
    sums, times = torch.zeros_like(x), torch.zeros_like(x)
    for image, row, column in product(range(2), (0, 2), (0, 2)):
        here = (image, slice(None), slice(row, row + 3), slice(column, column + 3))
        apart = (filter.get_buffer("patches") - x[here]).square().sum((1, 2, 3))
        weight = torch.exp(-apart / (0.3 * apart.mean()))
        sums[here] += (weight[:, None, None, None] * filter.get_buffer("patches")).sum(0) / weight.sum()
        times[here] += 1
    torch.testing.assert_close(filter.stand_in(x), sums / times)
    assert torch.autograd.gradcheck(filter.stand_in, x.requires_grad_())


def test_its_gradient_breaks_more_than_that_of_the_identity():
    torch.manual_seed(0)
    network, batch = MLP(hidden=(32,), shape=(1, 8, 8)), next(TRAIN.in_order(len(TRAIN)))
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(100):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(batch.x), batch.y).backward()
        optimiser.step()
    filter, test = Quilting(4, 2, patches=500, shape=(1, 8, 8)).fit(TRAIN), next(Digits().load("test").in_order(50))
    left = []
    for before in (filter, BPDA(filter)):
        model = Filtered(before, network).eval()
        attack = PGD(norm=L2, eps=1.2, steps=20, step_size=0.15)
        left.append(1 - float(attack.run(model, test.x, test.y, generator=torch.arange(50)).success.double().mean()))
    assert left[0] < left[1] - 0.05


def test_a_checkpoint_has_the_patches(tmp_path):
    settings = {"kind": "MLP", "hidden": [4], "filter": {"kind": "Quilting", "size": 4, "patches": 30}}
    network = network_of(settings, (1, 8, 8), 10, fit=TRAIN)
    path = tmp_path / "it.safetensors"
    checkpoint.save(path, network.state_dict())
    again = network_of(settings, (1, 8, 8), 10)
    with pytest.raises(ValueError, match="no patches yet"):
        again(torch.rand(2, 1, 8, 8))
    again.load_state_dict(checkpoint.load(path))
    x = torch.rand(2, 1, 8, 8)
    answers = []
    for each in (network, again):
        torch.manual_seed(0)
        answers.append(each(x))
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quilting(5, 3), "overlap from 0 to half of size; got 3 of 5"),
        (lambda: Quilting(neighbours=0), "1 <= neighbours <= patches"),
        (lambda: Quilting(neighbours=30, patches=20), "got 30 and 20"),
        (lambda: Quilting(9, shape=(1, 8, 8)).fit(TRAIN), "9 pixels a side; the training images are \\(1, 8, 8\\)"),
        (lambda: Quilting(shape=(3, 8, 8)).fit(TRAIN), "patches of 3 channels"),
        (
            lambda: Quilting(patches=20, shape=(1, 8, 8)).fit(TRAIN)(torch.rand(1, 1, 4, 8)),
            "the images are \\(1, 4, 8\\)",
        ),
    ],
)
def test_bad_settings_and_images(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()

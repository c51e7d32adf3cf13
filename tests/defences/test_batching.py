"""Batches that a network with batch normalisation cannot learn from: joined, or refused before training."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from steelman import Batch, DeepDefense, Parseval, Plain, Sum, Training, fit
from steelman.data import Digits, InMemory
from steelman.defences import Objective
from steelman.defences.batching import cut, least_batch, least_images, parts_in
from steelman.training import MicroBatches, play


def images(count: int) -> InMemory:
    return Digits().load("train").subset(torch.arange(count))


def network(norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16) if norm else nn.Identity(), nn.ReLU(), nn.Linear(16, 10)
    )


class Sizes(Objective):
    """Plain training that records the sizes and images of its batches."""

    def __init__(self) -> None:
        self.sizes, self.images = list[int](), list[int]()

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.index is not None
        self.sizes.append(len(batch))
        self.images.extend(batch.index.tolist())
        return Plain()(model, batch)


@pytest.mark.parametrize(
    ("norm", "micro_batch", "sizes"),
    [
        (True, None, [10, 11]),
        (False, None, [10, 10, 1]),
        (True, 3, [3, 3, 4, 3, 3, 3, 2]),
        (False, 3, [3, 3, 3, 1, 3, 3, 3, 1, 1]),
        (True, 20, [10, 11]),
    ],
)
def test_a_last_single_image_is_joined_to_the_ones_before(norm: bool, micro_batch: int | None, sizes: list[int]):
    spy = Sizes()
    training = Training(epochs=2, batch_size=10, micro_batch=micro_batch)
    history = fit(network(norm), images(21), spy, training, progress=False)
    assert spy.sizes == 2 * sizes
    assert len(set(spy.images[:21])) == 21
    assert sorted(spy.images) == sorted(2 * spy.images[:21])
    assert [line["epoch"] for line in history.log] == [0, 1, 2]


def test_an_epoch_has_as_many_batches_as_are_played():
    spy = Sizes()
    fit(network(), images(21), spy, Training(iterations=3, batch_size=10), progress=False)
    assert spy.sizes == [10, 11, 10]


def test_averaged_weights_measure_their_statistics_on_such_batches_too():
    for defence in (Plain(), DeepDefense(weight=0.0)):
        fit(network(), images(21), defence, Training(epochs=1, batch_size=10, swa=0.0), progress=False)


@pytest.mark.parametrize(
    ("training", "count", "message"),
    [
        (Training(batch_size=1), 20, "batches of 2 images or more; got batch_size=1 and 20 images"),
        (Training(batch_size=10), 1, "got batch_size=10 and 1 images"),
        (Training(batch_size=10, micro_batch=1), 20, "micro_batch has to be at least 2; got 1"),
    ],
)
def test_what_cannot_be_joined_is_refused_before_training(training: Training, count: int, message: str):
    spy, model = Sizes(), network()
    before = [value.clone() for value in model.state_dict().values()]
    with pytest.raises(ValueError, match=message):
        fit(model, images(count), spy, training, progress=False)
    assert spy.sizes == []
    torch.testing.assert_close(list(model.state_dict().values()), before, rtol=0, atol=0)
    fit(network(norm=False), images(count), spy, replace(training, epochs=1), progress=False)


@pytest.mark.parametrize("defence", [DeepDefense(), Parseval(DeepDefense())])
def test_a_defence_that_freezes_batch_normalisation_may_learn_from_one_image(defence: Objective):
    model, batch = network().train(), next(images(3).batches([torch.arange(3)]))
    micro = MicroBatches(DeepDefense(), 1).setup(model, images(3))
    play(micro, model, batch, torch.optim.SGD(model.parameters(), 0.1))
    fit(model, images(3), defence, Training(epochs=1, batch_size=1), progress=False)
    assert Sum((Plain(), DeepDefense())).batch_statistics
    assert not Sum((DeepDefense(), DeepDefense())).batch_statistics


def test_processes_get_two_images_each():
    parts = cut(torch.arange(23), 10, least=4)
    assert [len(part) for part in parts] == [10, 13]
    assert torch.equal(torch.cat(parts), torch.arange(23))
    assert [len(part) for part in cut(torch.arange(24), 10, least=4)] == [10, 10, 4]
    assert [least_batch(Plain(), alone, 4, 50, 2) for alone in (1, 2)] == [1, 4]
    for count, size, least in product(range(1, 30), (4, 7, 10), (1, 2, 4)):
        assert parts_in(count, size, least) == len(cut(torch.arange(count), size, least))
    with pytest.raises(ValueError, match="4 images or more, two for each of 2 processes; got batch_size=3"):
        least_batch(Plain(), 2, 3, 50, 2)


def test_only_networks_that_cannot_run_on_one_image_need_two():
    maps = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    model = network().eval()
    assert [least_images(each, images(5)) for each in (model, network(norm=False), maps)] == [2, 1, 1]
    assert not any(module.training for module in model.modules())

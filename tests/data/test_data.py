"""Data sets: embedded digits, batches, subsets, held-out parts, streams."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from steelman import NoisyCopies
from steelman.data import Dataset, Digits, External, InMemory, Streamed, split_off
from steelman.data.dataset import check_split
from steelman.data.sample import spread

TEST_DIGITS = 1195645372
"""CRC-32 of the places of the test digits, worked out by a loop without torch."""


class Squares:
    """A map-style torch data set: image i is constant i / 100, its label i % 3."""

    classes = ("a", "b", "c")

    def __len__(self) -> int:
        return 20

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        if place >= len(self):
            raise IndexError(place)
        return torch.full((1, 2, 2), place / 100), place % 3


def squares(split: str) -> Squares:
    return Squares()


def made(count: int = 20) -> InMemory:
    images = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return InMemory("made", images, torch.arange(count) % 3, ("a", "b", "c"), levels=100)


BOTH = [made, lambda: External(f"{__name__}:squares").load("train")]


def test_digits_are_scikit_learns_split_for_ever() -> None:
    train, test = Digits().load("train"), Digits().load("test")
    assert (len(train), len(test)) == (1297, 500)
    assert sorted([*train.index.tolist(), *test.index.tolist()]) == list(range(1797))
    assert zlib.crc32(test.index.numpy().tobytes()) == TEST_DIGITS
    raw, target = load_digits(return_X_y=True)
    for part in (train, test):
        batch = next(part.in_order(len(part)))
        assert np.array_equal(batch.x.numpy().reshape(-1, 64) * 16, raw[part.index])  # exact levels
        assert np.array_equal(batch.y.numpy(), target[part.index])
        shares = torch.bincount(part.labels) / torch.bincount(torch.from_numpy(target))
        assert (shares - len(part) / 1797).abs().max() < 0.007  # one of 174 .. 183 images


@pytest.mark.parametrize("make", BOTH)
def test_batches_come_in_order_with_their_places(make) -> None:
    dataset: Dataset = make()
    assert (len(dataset), dataset.shape, dataset.classes) == (20, (1, 2, 2), ("a", "b", "c"))
    first, second = dataset.batches([torch.tensor([5, 3]), torch.tensor([19])])
    assert first.x.dtype == torch.float32
    assert torch.allclose(first.x[:, 0, 0, 0], torch.tensor([0.05, 0.03]))
    assert first.y.tolist() == [2, 0]
    assert first.index is not None
    assert first.index.tolist() == [5, 3]
    assert second.x.shape == (1, 1, 2, 2)
    assert torch.cat([batch.y for batch in dataset.in_order(7)]).tolist() == [place % 3 for place in range(20)]


@pytest.mark.parametrize("make", BOTH)
def test_a_subset_of_a_subset_remembers_the_first_places(make) -> None:
    part = make().subset(torch.tensor([10, 4, 7, 2])).subset(torch.tensor([3, 0])).to("cpu")
    (batch,) = part.in_order(10)
    assert len(part) == 2
    assert batch.index.tolist() == part.index.tolist() == [2, 10]
    assert torch.allclose(batch.x[:, 0, 0, 0], torch.tensor([0.02, 0.1]))


def test_batches_are_made_one_at_a_time() -> None:
    asked = []

    def plan():
        for place in range(3):
            asked.append(place)
            yield torch.tensor([place])

    batches = made().batches(plan())
    next(batches)
    assert asked == [0]


def test_a_stream_read_by_other_processes_is_the_same() -> None:
    alone = External(f"{__name__}:squares").load("train")
    shared = Streamed("shared", Squares(), (1, 2, 2), Squares.classes, workers=1)
    for left, right in zip(alone.in_order(6), shared.in_order(6), strict=True):
        assert torch.equal(left.x, right.x)
        assert torch.equal(left.y, right.y)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_stream_takes_pillow_images(mode: str, channels: int) -> None:
    image = Image.new(mode, (3, 2))
    image.putpixel((2, 1), 51 if mode == "L" else (51, 102, 255))
    (batch,) = Streamed("pictures", [(image, 1)], (channels, 2, 3), ("a", "b")).in_order(1)
    assert torch.allclose(batch.x[0, :, 1, 2], torch.tensor([0.2, 0.4, 1.0])[:channels])
    assert batch.x.count_nonzero() == channels


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 2, 2), torch.tensor([0, 3]), "labels must lie in 0 .. 2"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([0, -1]), "labels must lie"),
        (torch.zeros(2, 1, 2, 2), torch.tensor([0]), "labels int64 of shape"),
        (torch.zeros(2, 2, 2), torch.tensor([0, 1]), "images must have shape"),
        (torch.full((2, 1, 2, 2), 1.5), torch.tensor([0, 1]), "pixels must lie in 0 .. 1"),
        (torch.full((2, 1, 2, 2), torch.nan), torch.tensor([0, 1]), "pixels must lie"),
        (torch.full((2, 1, 2, 2), 101, dtype=torch.uint8), torch.tensor([0, 1]), "pixels must lie in 0 .. 100"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.int64), torch.tensor([0, 1]), "uint8 or floating"),
    ],
)
def test_memory_refuses(images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InMemory("bad", images, labels, ("a", "b", "c"), levels=100)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((torch.zeros(1, 3, 3), 0), "image 1 has shape"),
        ((torch.full((1, 2, 2), 2.0), 0), "image 1 is neither"),
        ((torch.full((1, 2, 2), torch.nan), 0), "image 1 is neither"),
        ((torch.zeros(1, 2, 2), 3), "image 1 has the label 3"),
    ],
)
def test_a_stream_refuses(item, message: str) -> None:
    good = (torch.zeros(1, 2, 2), 0)
    stream = Streamed("bad", [good, item], (1, 2, 2), ("a", "b", "c"))
    with pytest.raises(ValueError, match=message):
        list(stream.in_order(1))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_colon", "not of the form"),
        ("no_such_module:f", "no module named 'no_such_module'"),
        (f"{__name__}:square", "did you mean squares"),
        (f"{__name__}:TEST_DIGITS", "not a function"),
        (f"{__name__}:check_split", "must return a map-style data set"),
        ("builtins:len", "standard library, which is never called"),
    ],
)
def test_external_refuses(function: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        External(function).load("train")


def test_external_finds_modules_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_alone.py").write_text(
        "from steelman.data import Digits\ndef load(split): return Digits().load(split)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert len(External("mine_alone:load").load("test")) == 500


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("size", [6, 0.3])
def test_split_off_parts(make, size: float) -> None:
    dataset: Dataset = make()
    rest, held_out = split_off(dataset, size, seed=1)
    assert (len(rest), len(held_out)) == (14, 6)
    assert sorted([*rest.index.tolist(), *held_out.index.tolist()]) == list(range(20))
    assert torch.equal(split_off(dataset, size, seed=1)[1].index, held_out.index)
    assert not torch.equal(split_off(dataset, size, seed=2)[1].index, held_out.index)
    if dataset.labels is not None:
        (batch,) = held_out.in_order(6)
        assert torch.bincount(batch.y).tolist() == [2, 2, 2]


def test_split_off_leaves_the_global_generator_alone_and_covers_evenly() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    dataset = Digits().load("train")
    picked = torch.zeros(1797)
    for seed in range(200):
        picked[split_off(dataset, 0.25, seed)[1].index] += 1
    assert torch.equal(torch.get_rng_state(), before)
    # each image is held out a quarter of the time: a binomial of mean 50 and deviation 6.1
    assert picked[dataset.index].min() > 25
    assert picked[dataset.index].max() < 75


@pytest.mark.parametrize("size", [0, 20, -1, 0.0, 1.0, 0.001])
def test_split_off_refuses_an_empty_side(size: float) -> None:
    with pytest.raises(ValueError, match="cannot hold out"):
        split_off(made(), size)


@pytest.mark.parametrize(("length", "count"), [(10, 3), (1797, 500), (7, 7), (7, 0)])
def test_spread_takes_at_even_distances(length: int, count: int) -> None:
    rest, taken = spread(torch.arange(length), count)
    assert len(taken) == count
    assert len(rest) == length - count
    if count > 1:
        gaps = taken.diff()
        assert gaps.max() - gaps.min() <= 1


def test_other_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'train' or 'test'; got 'validation'"):
        check_split("validation")


# --- digests


def some(count: int = 20, **changes) -> InMemory:
    images = changes.pop("images", torch.arange(4 * count, dtype=torch.uint8).reshape(-1, 1, 2, 2))
    labels = changes.pop("labels", torch.arange(count) % 3)
    return InMemory(changes.pop("name", "some"), images, labels, ("a", "b", "c"), **changes)


def flowing(data: InMemory) -> Streamed:
    (batch,) = data.in_order(len(data))
    items = list(zip(batch.x, batch.y.tolist(), strict=True))
    return Streamed("some", items, data.shape, data.classes, labels=data.labels)


def one_else(values: Tensor, place: int = 7) -> Tensor:
    values = values.clone()
    values.view(-1)[place] = values.view(-1)[place] + 1
    return values


KINDS = {"memory": lambda data: data, "stream": flowing, "copies": lambda data: NoisyCopies(copies=2)(data)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_digest_tells_other_images_labels_and_orders(kind: str) -> None:
    make = KINDS[kind]
    floats = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(0)) / 2
    others = {
        "as it is": some(),
        "a pixel": some(images=one_else(some().images)),
        "a label": some(labels=one_else(some().labels, 6)),
        "transposed": some(images=some().images.transpose(2, 3).contiguous()),
        "shape": some(images=some().images.reshape(-1, 1, 4, 1)),
        "fewer": some().subset(torch.arange(19)),
        "order": some().subset(torch.arange(19, -1, -1)),
        "white": some(levels=100),
        "floats": some(images=floats),
        "another float": some(images=floats + torch.eye(20)[3].reshape(-1, 1, 1, 1) * 1e-3),
    }
    digests = {name: make(data).digest() for name, data in others.items()}
    assert len(set(digests.values())) == len(others), digests
    assert make(some(name="other")).digest() == make(some()).digest() == make(some()).to("cpu").digest()


def test_copies_with_other_noise_have_another_digest() -> None:
    preparations = [NoisyCopies(copies=2), NoisyCopies(copies=3), NoisyCopies(copies=2, sigma=0.1)]
    digests = [each(some()).digest() for each in preparations] + [preparations[0](some(), seed=1).digest()]
    assert len(set(digests)) == 4


class Many:
    """Images that count how often they are read, and may be another one at each reading."""

    def __init__(self, count: int, by_chance: bool = False, change: int | None = None) -> None:
        self.count, self.by_chance, self.change, self.read = count, by_chance, change, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        self.read += 1
        image = torch.full((1, 2, 2), place % 256, dtype=torch.uint8)
        if self.by_chance:
            image[0, 0, 0] = torch.randint(0, 256, ())
        return image + (1 if place == self.change else 0), place % 3


def stream(items: Many, labels: Tensor | None = None) -> Streamed:
    return Streamed("many", items, (1, 2, 2), ("a", "b", "c"), labels=labels)


def test_of_a_large_stream_some_images_are_read() -> None:
    items = Many(10**5)
    digest = stream(items).digest()
    assert items.read <= 1200
    assert stream(Many(10**5)).digest() == digest
    assert stream(Many(10**5 + 1)).digest() != digest
    assert stream(Many(10**5, change=10**5 - 1)).digest() != digest  # one of those that are read
    labels = torch.arange(10**5) % 3
    assert stream(items, labels).digest() != stream(items, one_else(labels, 3)).digest()


def test_images_that_change_at_each_reading_are_known_by_their_labels() -> None:
    labels = torch.arange(300) % 3
    assert stream(Many(300, by_chance=True), labels).digest() == stream(Many(300, by_chance=True), labels).digest()
    assert stream(Many(300, by_chance=True), labels).digest() != stream(Many(300, True), one_else(labels, 3)).digest()


class Own(Dataset):
    """A data set of a user's, which does not define a digest."""

    def __init__(self, data: InMemory) -> None:
        self.data, self.name, self.classes, self.shape, self.index = data, "own", data.classes, data.shape, data.index

    @property
    def labels(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.data)

    def batches(self, indices):
        return self.data.batches(indices)

    def subset(self, index: Tensor) -> "Own":
        return Own(self.data.subset(index))

    def to(self, device: torch.device | str) -> "Own":
        return Own(self.data.to(device))


def test_a_users_data_set_is_read_whole() -> None:
    many = some(60, images=torch.zeros(60, 1, 2, 2, dtype=torch.uint8))
    for other in (one_else(many.images, 239), one_else(many.images, 0)):
        assert Own(some(60, images=other)).digest() != Own(many).digest()
    assert Own(some(60, images=many.images, labels=one_else(many.labels, 0))).digest() != Own(many).digest()
    assert Own(many).digest() == Own(many).to("cpu").digest()

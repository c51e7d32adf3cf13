"""A sample by class: the same for every model, nested, and written into the table."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steelman import FGSM
from steelman.data import Digits, InMemory, Sampled, Streamed, sampled
from steelman.data.sample import Sample, sample_order
from steelman.evaluation import evaluate
from steelman.evaluation.battery import Battery
from steelman.experiments.assess import attacked, reference_of
from steelman.loading.subject import Subject
from steelman.networks import MLP
from steelman.training.validation import Validation

CLASSES = tuple(map(str, range(10)))


def sorted_by_class(counts: Iterable[int]) -> InMemory:
    """Images in the order of their classes, as a folder of pictures has them."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    images = torch.rand(len(labels), 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return InMemory("folder", images, labels, CLASSES)


@pytest.mark.parametrize(
    "counts", [[30] * 10, [100, 5, 40, 1, 60, 20, 3, 80, 7, 90], [0, 50, 50, 0, 0, 10, 0, 0, 0, 0]]
)
def test_every_beginning_has_of_each_class_its_share(counts: list[int]) -> None:
    data = sorted_by_class(counts)
    order = sample_order(data.labels, data.index)
    assert sorted(order.tolist()) == list(range(len(data)))
    for taken in range(1, len(data) + 1, 7):
        here = torch.bincount(data.labels[order[:taken]], minlength=10)
        share = torch.tensor(counts) * taken / len(data)
        assert float((here - share).abs().max()) <= 1


def test_thirty_images_of_a_sorted_folder_are_of_all_classes() -> None:
    few = sampled(sorted_by_class([50] * 10), 30)
    assert few.labels is not None
    assert torch.bincount(few.labels).tolist() == [3] * 10
    assert few.index.tolist() == sorted(few.index.tolist())


def test_a_larger_sample_contains_a_smaller_one_and_the_seed_decides() -> None:
    data = Digits().load("test")
    samples = [set(sampled(data, count).index.tolist()) for count in (10, 50, 51, 200)]
    assert all(small < large for small, large in pairwise(samples))
    assert set(sampled(data, 50).index.tolist()) == samples[1]
    assert set(sampled(data, 50, seed=1).index.tolist()) != samples[1]
    assert sorted(samples[0])[:3] == [280, 593, 763]  # the same for ever: tables are extended by it


def test_images_whose_labels_are_not_known_are_drawn_at_random() -> None:
    data = sorted_by_class([20] * 10)
    items = [(image, int(label)) for image, label in zip(data.images, data.labels, strict=True)]
    blind = Streamed("blind", items, (1, 4, 4), CLASSES)
    few = sampled(blind, 20)
    assert isinstance(few, Sample)
    assert few.drawn == Sampled(20, 200, 0, "at random")
    (batch,) = few.batches([torch.arange(20)])
    assert len(batch.y.unique()) > 4
    assert sampled(data, None) is data is sampled(data, 200) is sampled(data, 999)
    with pytest.raises(ValueError, match="at least one image; got 0"):
        sampled(data, 0)


def test_a_sample_is_a_data_set() -> None:
    data = sorted_by_class([20] * 10)
    few = sampled(data, 30)
    assert isinstance(few, Sample)
    (batch,) = few.batches([torch.arange(30)])
    places = few.index
    assert torch.equal(batch.x, data.images[places])
    assert torch.equal(batch.y, data.labels[places])
    assert batch.index is not None
    assert torch.equal(batch.index, places)
    assert (len(few), few.name, few.classes, few.shape) == (30, "folder", CLASSES, (1, 4, 4))
    assert few.digest() == data.subset(places).digest() == few.to("cpu").digest()
    assert isinstance(few.to("cpu"), Sample)
    assert few.subset(torch.arange(3)).index.tolist() == places[:3].tolist()


def subject_of(name: str, seed: int, folder: Path) -> Subject:
    torch.manual_seed(seed)
    data = sorted_by_class([40] * 10)
    return Subject(name, MLP(shape=(1, 4, 4), hidden=[]).eval(), data, lambda: data, folder / name)


def test_every_model_is_evaluated_on_the_same_images_and_the_table_says_how_they_were_drawn(tmp_path: Path) -> None:
    battery = Battery({"FGSM": FGSM(eps=0.1)}, images=20)
    tables = [
        attacked(subject_of(name, seed, tmp_path), battery, seed=seed, progress=False)["pixels"]
        for seed, name in enumerate(("one", "two"))
    ]
    images = [set(table["image"].tolist()) for table in tables]
    assert images[0] == images[1]
    assert set(tables[0]["label"].tolist()) == set(range(10))
    for table in tables:
        assert table.about["sample"] == {"images": 20, "of": 400, "seed": 0, "rule": "by class"}
        assert table.about["classes"] == list(CLASSES)
    whole = attacked(subject_of("one", 0, tmp_path), replace(battery, images=None), progress=False)["pixels"]
    assert whole.about["sample"] is None
    assert (whole.images, str(Sampled(20, 400, 0, "by class"))) == (
        400,
        "20 of 400 images, a sample by class (seed 0)",
    )


def test_a_table_is_extended_to_a_larger_sample_and_one_of_the_first_images_is_refused(tmp_path: Path) -> None:
    subject = subject_of("one", 0, tmp_path)

    def table(images: int, **how: Any):
        return attacked(
            subject, Battery({"FGSM": FGSM(eps=0.1)}, images=images), folder=tmp_path, progress=False, **how
        )

    assert table(20)["pixels"].images == 20
    more = table(50)["pixels"]
    assert (more.images, more.about["sample"]["images"]) == (50, 50)
    evaluate(subject.model, subject.test.subset(torch.arange(30)), [FGSM(eps=0.1)], folder=tmp_path, fresh=True)
    for images in (30, 100):
        with pytest.raises(ValueError, match=r"older versions took the first images .*--fresh"):
            table(images)
    assert table(30, fresh=True)["pixels"].images == 30
    # What an older version had done of an unfinished one is no better.
    first = evaluate(subject.model, subject.test.subset(torch.arange(9)), [FGSM(eps=0.1)], progress=False)
    first.save(tmp_path / "parts" / "pixels-000001.parquet")
    with pytest.raises(ValueError, match=r"pixels-000001\.parquet has \d images .*--fresh"):
        table(30)
    (tmp_path / "parts" / "pixels-000001.parquet").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="attacked again"):
        assert table(30)["pixels"].images == 30


def test_eps_ref_is_of_the_same_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def reference(model: object, images: InMemory, **how: object) -> float:
        seen.append(images.index)
        return 0.1

    monkeypatch.setattr("steelman.experiments.assess.reference_epsilon", reference)
    subject = subject_of("one", 0, tmp_path)
    reference_of(subject, 20)
    assert torch.equal(seen[0], sampled(subject.test, 20).index)


def test_test_images_that_a_training_tracks_are_a_sample_too() -> None:
    """Of a folder that is sorted by class, the first would all be of class 0, which this model always predicts."""
    torch.manual_seed(0)
    model = MLP(shape=(1, 4, 4), hidden=[]).eval()
    head = model.get_submodule("fc1")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.bias[0] += 9
    line = Validation(None, None, sorted_by_class([40] * 10), 20, seed=0)(model)
    assert line["test_clean"] == 0.1


asked: list[int] = []


class Counted(nn.Module):
    """A model of five classes that notes of how many images it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MLP(shape=(1, 4, 4), hidden=[], classes=5)

    def forward(self, x: Tensor) -> Tensor:
        asked.append(len(x))
        return self.network(x)


def test_a_label_without_a_class_is_refused_before_anything_is_attacked() -> None:
    """Also where the first batch does not contain it, and where labels are not known without reading the images."""
    data = sorted_by_class([20] * 10)
    items = [(image, int(label)) for image, label in zip(data.images, data.labels, strict=True)]
    model = Counted().eval()
    streamed = Streamed("blind", items, (1, 4, 4), CLASSES)
    for images in (data, (data.images, data.labels), streamed):
        asked.clear()
        with pytest.raises(ValueError, match="label 9 has no class: the model returns 5 logits"):
            evaluate(model, images, [FGSM(eps=0.1)], batch_size=20, progress=False)
        assert asked == [20]

"""The gallery shows the table's own rows."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from reported import ATTACKS, entries, models
from steelman.attacks import DeepFool
from steelman.data import Digits
from steelman.report import Gallery
from steelman.report.gallery import amplification, png
from steelman.table import Evaluation
from steelman.table.records import CLEAN

pytestmark = pytest.mark.xdist_group("report")


@pytest.fixture(scope="module")
def data():
    return Digits().load("test").subset(torch.arange(60))


@pytest.fixture(scope="module")
def model():
    return models()["Plain <b>"]


def row_of(table: Evaluation, attack: str, image: int) -> dict:
    return next(row for row in table.only(attack).table.to_pylist() if row["image"] == image)


def test_what_is_shown_is_what_the_table_measured(data, model):
    gallery, table = entries()[0].gallery, entries()[0].evaluation
    assert len(gallery.index) == 12
    for place, (image, attack) in enumerate(zip(gallery.index.tolist(), gallery.attack, strict=True)):
        row = row_of(table, attack, image)
        assert float(gallery.size[place]) == pytest.approx(row["l2"], rel=1e-5)
        assert float((gallery.x_adv - gallery.x)[place].double().norm()) == pytest.approx(row["l2"], rel=1e-5)
        assert int(gallery.label[place]) == row["label"] == row["clean_prediction"]
        assert int(gallery.prediction[place]) == row["prediction"] != row["label"]
        assert int(model(gallery.x_adv[place : place + 1]).argmax()) == row["prediction"]
    # Each image with its nearest, over the minimal attacks, and the images in the order of their distance.
    minimal = table.only([str(DeepFool()), str([*ATTACKS][-1])]).table.to_pylist()
    for place, image in enumerate(gallery.index.tolist()):
        sizes = [row["l2"] for row in minimal if row["image"] == image and row["prediction"] != row["label"]]
        assert float(gallery.size[place]) == pytest.approx(min(sizes), rel=1e-5)
    assert gallery.size.tolist() == sorted(gallery.size.tolist())


def test_random_attacks_have_the_noise_of_the_evaluation(data, model):
    """PGD's random start decides where it ends, so that another seed would show another image."""
    name = next(name for name in ATTACKS if name.startswith("PGD"))
    table = entries()[0].evaluation.only([CLEAN, name])
    gallery = Gallery.of(model, data, table, ATTACKS, count=5)
    for place, image in enumerate(gallery.index.tolist()):
        assert float(gallery.size[place]) == pytest.approx(row_of(table, name, image)["l2"], rel=1e-5)
    other = table.recorded(lambda record: record.changed(seed=1))
    assert not torch.allclose(Gallery.of(model, data, other, ATTACKS, count=5).x_adv, gallery.x_adv)


def test_classes_take_turns(data, model):
    table = entries()[0].evaluation
    rows = [row for row in table.table.to_pylist() if row["clean_prediction"] == row["label"] != row["prediction"]]
    felled = {row["label"] for row in rows}
    few = Gallery.of(model, data, table, ATTACKS, count=len(felled))
    assert sorted(few.label.tolist()) == sorted(felled)
    assert set(few.index.tolist()) <= set(Gallery.of(model, data, table, ATTACKS, count=60).index.tolist())


def test_attacks_that_are_not_as_they_were_are_left_out(data, model):
    table = entries()[0].evaluation
    other = {name: DeepFool(steps=7) if name == str(DeepFool()) else attack for name, attack in ATTACKS.items()}
    assert str(DeepFool()) not in Gallery.of(model, data, table, other).attack
    assert Gallery.of(model, data, table, {}) is None
    assert Gallery.of(model, data, table.only(CLEAN), ATTACKS) is None


def test_a_pair_of_tensors_serves_too_and_other_data_do_not(data, model):
    (batch,) = data.batches([torch.arange(60)])
    from_pair = Gallery.of(model, (batch.x, batch.y), _numbered(entries()[0].evaluation), ATTACKS, count=3)
    assert from_pair.size.tolist() == Gallery.of(model, data, entries()[0].evaluation, ATTACKS, count=3).size.tolist()
    with pytest.raises(ValueError, match="give the same data"):
        Gallery.of(model, data.subset(torch.arange(1)), entries()[0].evaluation, ATTACKS)
    with pytest.raises(ValueError, match="give the same data"):
        Gallery.of(model, (batch.x[:1], batch.y[:1]), _numbered(entries()[0].evaluation), ATTACKS)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        Gallery.of(model, data, entries()[0].evaluation, ATTACKS, count=0)


def _numbered(table: Evaluation) -> Evaluation:
    """The same rows, of images that are numbered from 0."""
    import pyarrow

    _, places = np.unique(table["image"], return_inverse=True)
    return Evaluation(table.table.set_column(0, "image", pyarrow.array(places)))


def test_pictures_hold_the_images_to_the_last_level():
    gallery = entries()[0].gallery
    with Image.open(io.BytesIO(png(gallery.x_adv[0]))) as picture:
        levels = np.asarray(picture)
    np.testing.assert_allclose(levels / 255, gallery.x_adv[0, 0], atol=0.51 / 255)
    colour = torch.rand(3, 5, 4)
    with Image.open(io.BytesIO(png(colour))) as picture:
        np.testing.assert_allclose(np.asarray(picture) / 255, colour.permute(1, 2, 0), atol=0.51 / 255)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        png(torch.rand(2, 5, 4))


def test_differences_are_brought_to_full_contrast():
    change = torch.tensor([0.0, -0.02, 0.01])
    assert amplification(change) in (24, 25)
    assert amplification(torch.zeros(3)) == amplification(torch.ones(3)) == 1
